"""Whose a call is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class Caller:
    """Whose a call is.

    Attributes:
        client: whom fair turns and quotas go by.
        owner: whom its jobs belong to.
    """

    client: str
    owner: str


def caller_of(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """By its peer: the host without its port, "unix" for a Unix socket."""
    kind, _, rest = str(context.peer()).partition(":")
    return Caller("unix" if kind == "unix" else rest.rpartition(":")[0], "")
