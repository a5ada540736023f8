"""What both clients need to open a channel."""

from __future__ import annotations

from intarsia.errors import RequestError

__all__ = ["CHANNEL_OPTIONS", "check_address"]

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
