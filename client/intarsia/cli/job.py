"""Following one job to its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from intarsia.client import Client
from intarsia.result import Result
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Listener", "follow"]

Listener: TypeAlias = Callable[[pb.StylizeResponse], None]
"""Hears of every event, in order, in the main thread."""


def follow(client: Client, request: pb.StylizeRequest, listeners: Sequence[Listener]) -> Result:
    """Runs a job and tells the listeners; an exception, Ctrl-C above all, cancels it on the server.

    Raises:
        IntarsiaError: The job failed.
    """
    with client.start(request) as job:
        for event in job:
            for listener in listeners:
                listener(event)
        return job.result()
