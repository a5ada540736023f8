"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class Caller:
    """Whoever made a call.

    Attributes:
        client: whom fairness and quotas count it for.
        owner: whom what it makes belongs to; "" is everybody.
    """

    client: str
    owner: str


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """The peer's host; all Unix sockets are one."""
    kind, _, rest = context.peer().partition(":")
    return Caller("unix" if kind == "unix" else rest.rpartition(":")[0], "")
