"""A job and its states."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from intarsia_server.engine.request import Work
from intarsia_server.jobs.events import EventLog


class JobState(StrEnum):
    """queued -> running -> succeeded | failed | cancelled; a queued job may be cancelled too."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


_NEXT = {
    JobState.QUEUED: {JobState.RUNNING, JobState.CANCELLED},
    JobState.RUNNING: {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED},
}


@dataclass(eq=False)
class Job:
    """One request being worked on.

    Attributes:
        job_id: UUID, made by the server.
        request_id: UUID, chosen by the client.
        request: what to do.
        size: (width, height) of the result in pixels.
        areas: of a transfer, by stage, the share of the picture that it works on; 1 for those that are not named.
        log: its events.
        cancel: set to stop it.
        state: see `JobState`.
        queued_at: monotonic seconds.
        started_at: monotonic seconds, None while queued.
        queue_position: jobs before it; 0 when a worker is free or working on it.
        client: whom it comes from, for fair turns and quotas.
        memory: bytes that it is thought to take at its peak; 0: not known.
        seconds: that it is thought to take from its start; None: not known.
    """

    job_id: str
    request_id: str
    request: Work
    size: tuple[int, int]
    areas: Mapping[str, float] = field(default_factory=dict)
    log: EventLog = field(default_factory=EventLog)
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    state: JobState = JobState.QUEUED
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None
    queue_position: int = 0
    client: str = ""
    memory: int = 0
    seconds: float | None = None

    def move_to(self, state: JobState) -> None:
        """Changes state.

        Raises:
            ValueError: no such transition.
        """
        if state not in _NEXT.get(self.state, set()):
            raise ValueError(f"job {self.job_id} cannot go from {self.state} to {state}")
        self.state = state
