"""Reaching a server: a named one, or a private one for this command alone."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import grpc
import typer

from intarsia.client import Client
from intarsia.credentials import tls_credentials
from intarsia.embedded import EmbeddedServer
from intarsia.errors import IntarsiaError, RequestError

__all__ = ["LastingServerOption", "ServerOption", "lasting_server", "open_client", "with_access_options"]

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


@dataclass(frozen=True)
class _Access:
    """What is shown to the server, and asked of it: each field is an option of every command that has --server."""

    tls: Annotated[
        bool,
        typer.Option("--tls", envvar="INTARSIA_TLS", help="Speak TLS to the server, and trust well-known authorities."),
    ] = False
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            envvar="INTARSIA_TLS_CA",
            help="Speak TLS, and trust this file's authorities alone, PEM.",
        ),
    ] = None
    # Not INTARSIA_TLS_CERTIFICATE and INTARSIA_TLS_KEY, which are a server's own.
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar="INTARSIA_CLIENT_CERTIFICATE", help="Speak TLS, and show this certificate, PEM."
        ),
    ] = None
    tls_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", envvar="INTARSIA_CLIENT_KEY", help="That certificate's key, PEM."),
    ] = None
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The token to show is in this file. Without one: INTARSIA_TOKEN's value."),
    ] = None

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None: plain text."""
        if not self.tls and (self.tls_ca, self.tls_certificate, self.tls_key) == (None, None, None):
            return None
        return tls_credentials(self.tls_ca, self.tls_certificate, self.tls_key)

    def token(self) -> str | None:
        """None: none is shown."""
        if self.token_file is not None:
            return self.token_file.read_text(errors="replace").strip()
        # No option: everybody on the machine can read a command line.
        return os.environ.get("INTARSIA_TOKEN") or None


_access: ContextVar[_Access] = ContextVar("access", default=_Access())  # noqa: B039 - it is frozen


def with_access_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that has --server the options of TLS and tokens too, which `open_client` then follows."""
    signature = inspect.signature(command, eval_str=True)
    if "server" not in signature.parameters:
        return command
    options = inspect.signature(_Access, eval_str=True).parameters

    @functools.wraps(command)
    def with_access(**arguments: Any) -> None:
        _access.set(_Access(**{field.name: arguments.pop(field.name) for field in fields(_Access)}))
        command(**arguments)

    with_access.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *options.values()]
    )
    return with_access


@contextmanager
def open_client(server: str | None) -> Iterator[Client]:
    """Connects to `server`, as the options of TLS and tokens say, or to a private server that ends with the block.

    Raises:
        RequestError: `server` is no address, or the options do not fit it or each other.
        OSError: A file of the options that cannot be read.
        IntarsiaError: UNAVAILABLE: not reachable within 10 s, or the private server did not start;
            FAILED_PRECONDITION: the server is not installed here.
    """
    if server is not None:
        access = _access.get()
        credentials = access.credentials()
        with Client(server, credentials, access.token()) as client:
            try:
                client.wait_ready(_CONNECT_TIMEOUT)
            except IntarsiaError as error:
                if not server.startswith("unix:"):
                    error.add_note("  without TLS (--tls-ca)" if credentials is None else "  over TLS")
                raise
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
