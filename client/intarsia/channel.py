"""What both clients need to open a channel."""

from __future__ import annotations

import ipaddress

from intarsia.errors import RequestError

__all__ = ["CHANNEL_OPTIONS", "check_address", "is_local"]

CHANNEL_OPTIONS = (
    # Pictures are larger than gRPC's 4 MiB; the server says what it refuses (max_message_bytes).
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A network that swallows everything is noticed half a minute after the last packet.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Of any other ping, which the keepalive's own would wait behind for a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # A server that comes back is found again at once: gRPC by itself would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # How long a connection may take to come about.
    ("grpc.min_reconnect_backoff_ms", 10_000),
)


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
