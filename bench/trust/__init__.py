"""Whether the service can be trusted: faults, rubbish and overload, and what it makes of them."""
