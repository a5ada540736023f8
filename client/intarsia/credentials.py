"""What a client shows to a server, and what it asks of it: TLS and tokens."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
from grpc import aio

from intarsia.channel import is_local
from intarsia.errors import RequestError

__all__ = ["check_token", "tls_credentials", "with_token"]

AnyChannel = TypeVar("AnyChannel", grpc.Channel, aio.Channel)


def tls_credentials(
    ca: str | PathLike[str] | None = None,
    certificate: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """Credentials for a server that speaks TLS, from PEM files.

    Args:
        ca: Authorities that the server's certificate may come from; None: those that gRPC comes with.
        certificate: This client's own, for a server that asks for one.
        key: The certificate's, not encrypted.

    Raises:
        RequestError: A file does not hold what it should, or one of certificate and key is given without the other.
        OSError: A file that cannot be read.
    """
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # gRPC would take anything and then fail every call
    roots = chain = private = None
    try:
        if ca is not None:
            roots = Path(ca).read_bytes()
            probe.load_verify_locations(cadata=roots.decode("ascii"))
        if certificate is not None and key is not None:
            chain, private = Path(certificate).read_bytes(), Path(key).read_bytes()
            probe.load_cert_chain(certificate, key, password=lambda: b"")
        elif certificate is not None or key is not None:
            raise RequestError("a certificate needs its key, and a key its certificate")
    except (ssl.SSLError, UnicodeDecodeError) as error:
        kind = "authority" if chain is None else "certificate or key"
        raise RequestError(f"the {kind} is not usable PEM") from error
    return grpc.ssl_channel_credentials(roots, private, chain)


def check_token(token: str, address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """Returns the token if it may be sent there.

    Raises:
        RequestError: It would go over a network in plain text, or is no token.
    """
    if credentials is None and not is_local(address):
        raise RequestError(f"a token does not go in plain text to {address}: use TLS")
    if not token or not all("!" <= character <= "~" for character in token):
        raise RequestError("a token is made of printable ASCII characters, without spaces")
    return token


def with_token(channel: AnyChannel, token: str | None) -> AnyChannel:
    """A channel for stubs, whose calls all carry the token.

    Not gRPC's call credentials, which are for TLS alone, nor interceptors, which change what asyncio's calls are.
    """
    return channel if token is None else cast(AnyChannel, _TokenChannel(channel, token))


class _TokenChannel:
    def __init__(self, channel: grpc.Channel | aio.Channel, token: str) -> None:
        self._channel: Any = channel
        self._metadata = (("authorization", f"Bearer {token}"),)

    def unary_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._carrying(self._channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._carrying(self._channel.unary_stream(*arguments, **options))

    def stream_unary(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._carrying(self._channel.stream_unary(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Callable[..., Any]:
        return self._carrying(self._channel.stream_stream(*arguments, **options))

    def _carrying(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, *, metadata: Iterable[tuple[str, str | bytes]] | None = None, **options: Any) -> Any:
            return method(request, metadata=(*(metadata or ()), *self._metadata), **options)

        return call
