"""Where Prometheus fetches the metrics: plain HTTP on an address of its own, in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server


@contextmanager
def served_metrics(registry: CollectorRegistry, address: str) -> Iterator[int]:
    """Serves /metrics on HOST:PORT within the `with` block, which gets the port (that of port 0 is a free one).

    Raises:
        OSError: it cannot listen there.
    """
    host, _, port = address.rpartition(":")
    server, thread = start_http_server(int(port), host.strip("[]"), registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
