"""What both clients need to open a channel."""

from __future__ import annotations

import ipaddress

from intarsia.errors import RequestError

__all__ = ["CHANNEL_OPTIONS", "check_address", "is_local"]

# Pictures are larger than gRPC's 4 MiB; the server says what it refuses (max_message_bytes).
CHANNEL_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def check_address(address: str) -> str:
    """Returns the address if it is HOST:PORT or unix:PATH.

    gRPC would take anything, and then try port 443 of a host of that name until the deadline.

    Raises:
        RequestError: It is neither.
    """
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or (host and port.isdecimal() and "://" not in host):
        return address
    raise RequestError(f"address '{address}' is neither HOST:PORT nor unix:PATH")


def is_local(address: str) -> bool:
    """Whether what goes to this address stays on this machine: loopback, or a Unix socket."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
