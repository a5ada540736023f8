"""Who makes a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc


@dataclass(frozen=True)
class Caller:
    """`client` takes turns with other clients; `owner` may see the jobs that it has sent."""

    client: str
    owner: str


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """The host that the call comes from, as everybody's; "unix" from a Unix socket."""
    kind, _, address = context.peer().partition(":")
    return Caller(unquote(address).rpartition(":")[0] if kind in {"ipv4", "ipv6"} else "unix", "")
