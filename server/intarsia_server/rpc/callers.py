"""Who calls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc

token_name: ContextVar[str] = ContextVar("token_name", default="")
"""The name of the token that came with the call. gRPC runs a call's interceptors and its handler in one task."""

# In this order: services that are told apart by a URI (SPIFFE) may have one subject for all of them.
_IDENTITIES = ("peer_uri", "x509_subject", "x509_subject_alternative_name")


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        client: whose turn it is: the token's name, else the certificate's identity, else the peer's host without its
            port; "unix" for a Unix socket.
        owner: whose jobs these are: the token's name, else the certificate's identity; "" where nobody has to prove who
            they are, and everybody is one owner. A token's name never looks like a certificate's identity.
    """

    client: str
    owner: str


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Who makes this call; asked in the call's own task."""
    owner = token_name.get() or _certificate_identity(context.auth_context())
    return Caller(client=owner or _host(context.peer()), owner=owner)


def _certificate_identity(properties: Mapping[str, Iterable[bytes]]) -> str:
    """What the client's certificate says who it is, as "subject:CN=name"; "" without one."""
    for key in _IDENTITIES:
        if values := [value.decode(errors="replace") for value in properties.get(key, ()) if value]:
            return f"{key.rpartition('_')[2]}:{','.join(sorted(values))}"
    # It names nobody, but its holder must not be taken for everybody.
    return "".join(f"sha256:{hashlib.sha256(pem).hexdigest()}" for pem in properties.get("x509_pem_cert", ()))


def _host(peer: str) -> str:
    """Of "ipv4:127.0.0.1:1234", "ipv6:%5B::1%5D:1234" or "unix:"."""
    kind, _, rest = peer.partition(":")
    return "unix" if kind == "unix" else unquote(rest).rpartition(":")[0].strip("[]")
