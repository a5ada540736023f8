"""Following one job to its end, or leaving it to itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import grpc

from intarsia.cli.aside import Aside
from intarsia.client import Client
from intarsia.errors import IntarsiaError
from intarsia.result import Result
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Listener", "follow", "submit"]

Listener: TypeAlias = Callable[[pb.StylizeResponse], None]
"""Hears of every event, in order, in the main thread."""


def follow(
    client: Client, request: pb.StylizeRequest, listeners: Sequence[Listener], wait_when_busy: float = 0
) -> Result:
    """Runs a job and tells the listeners; an exception, Ctrl-C above all, cancels it on the server.

    Raises:
        IntarsiaError: The job failed.
    """
    with Aside() as aside, client.start(request, wait_when_busy=wait_when_busy) as job:
        for event in aside.events(job):
            for listener in listeners:
                listener(event)
        return aside(job.result)


def submit(client: Client, request: pb.StylizeRequest, wait_when_busy: float = 0) -> str:
    """Starts a detached job and returns its id as soon as the server has it.

    Raises:
        IntarsiaError: The job was refused.
    """
    with Aside() as aside, client.start(request, wait_when_busy=wait_when_busy) as job:
        for _ in aside.events(job):
            if job.job_id:
                return job.job_id
    raise IntarsiaError(grpc.StatusCode.DATA_LOSS, "the stream ended before the job was accepted")
