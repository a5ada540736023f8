"""Reaching a server: a named one, or a private one for this command alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, TypeAlias

import grpc
import typer

from intarsia.client import Client
from intarsia.embedded import EmbeddedServer
from intarsia.errors import IntarsiaError

__all__ = ["ServerOption", "open_client"]

ServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="INTARSIA_SERVER",
        help="The server, HOST:PORT or unix:PATH. Without one, a private server runs for this command alone.",
    ),
]

_CONNECT_TIMEOUT = 10
# Codes for which the private server's log may know more.
_SERVER_FAULTS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


@contextmanager
def open_client(server: str | None) -> Iterator[Client]:
    """Connects to `server`, or to a private server that ends with the block.

    Raises:
        RequestError: `server` is no address.
        IntarsiaError: UNAVAILABLE: not reachable within 10 s, or the private server did not start;
            FAILED_PRECONDITION: the server is not installed here.
    """
    if server is not None:
        with Client(server) as client:
            client.wait_ready(_CONNECT_TIMEOUT)
            yield client
        return
    sys.stderr.write("starting a private server\n")
    with EmbeddedServer() as embedded, Client(embedded.address) as client:
        try:
            yield client
        except IntarsiaError as error:
            log = embedded.log_tail()
            if error.code in _SERVER_FAULTS and log:
                error.add_note(f"the private server's log ends:\n{log}")
            raise
