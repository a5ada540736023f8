"""Jobs: one request being worked on, from admission to its last event."""
