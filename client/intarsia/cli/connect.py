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
from intarsia.errors import IntarsiaError, RequestError

__all__ = ["LastingServerOption", "ServerOption", "lasting_server", "open_client"]

ServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="INTARSIA_SERVER",
        help="The server, HOST:PORT or unix:PATH. Without one, a private server runs for this command alone.",
    ),
]
LastingServerOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", envvar="INTARSIA_SERVER", help="The server, HOST:PORT or unix:PATH. Required."),
]

_CONNECT_TIMEOUT = 10
# Codes for which the private server's log may know more.
_SERVER_FAULTS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def lasting_server(server: str | None, purpose: str) -> str:
    """Returns `server`, for what a private one cannot do.

    Raises:
        RequestError: None was named.
    """
    if server is None:
        raise RequestError(
            f"{purpose} needs a running server: name it with --server or INTARSIA_SERVER "
            "(a private server ends with its command, and its jobs with it)"
        )
    return server


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
    # Such a server does not come back.
    with EmbeddedServer() as embedded, Client(embedded.address, reattach_seconds=0) as client:
        try:
            yield client
        except IntarsiaError as error:
            log = embedded.log_tail()
            if error.code in _SERVER_FAULTS and log:
                error.add_note(f"the private server's log ends:\n{log}")
            raise
