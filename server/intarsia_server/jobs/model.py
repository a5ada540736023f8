"""A job that waits or is being worked on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from intarsia_server.engine.request import Work
from intarsia_server.jobs.events import EventLog
from intarsia_server.jobs.record import JobRecord, JobState, Outcome

_NEXT = {
    JobState.QUEUED: {JobState.RUNNING, JobState.FAILED, JobState.CANCELLED},
    JobState.RUNNING: {JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED},
}


@dataclass(frozen=True)
class Payload:
    """A request in a form that another server can take it up from, and its SHA-256 in hexadecimal."""

    data: bytes
    sha256: str


@dataclass(eq=False)
class Job:
    """One request being worked on.

    Attributes:
        job_id: UUID, made by the server.
        request_id: UUID, chosen by the client.
        request: what to do.
        size: (width, height) of the result in pixels.
        areas: of a transfer, by stage, the share of the picture that it works on; 1 for those that are not named.
        client: who takes turns with whom.
        owner: who may see it.
        memory: bytes that it is thought to take at its peak; 0: not known.
        seconds: that it is thought to take from its start; None: not known.
        payload: name of the stored request; "" for a job that does not outlive the server.
        cancel: set to stop it.
        suspended: it is stopped for the server's sake, and is to go on when that starts again.
        state: see `JobState`.
        created_at: seconds since the epoch, as the next two.
        began_at: when a worker took it for the first time, None before.
        ended_at: None before.
        started_at: monotonic seconds, of the newest attempt; None while queued.
        attempts: how often a worker has begun with it.
        deaths: how many of its workers have died since the server's start.
        epoch: how often it was found at a server's start.
        queue_position: jobs before it; 0 when a worker is free or working on it.
        fraction: share that is done, 0 to 1.
        status: what it failed or was cancelled with, described; else empty.
        outcome: of a transfer that succeeded.
        watchers: calls that have its events.
        log: its events.
    """

    job_id: str
    request_id: str
    request: Work
    size: tuple[int, int]
    areas: Mapping[str, float] = field(default_factory=dict)
    client: str = ""
    owner: str = ""
    memory: int = 0
    seconds: float | None = None
    payload: str = ""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    suspended: bool = False
    state: JobState = JobState.QUEUED
    created_at: float = field(default_factory=time.time)
    began_at: float | None = None
    ended_at: float | None = None
    started_at: float | None = None
    attempts: int = 0
    deaths: int = 0
    epoch: int = 0
    queue_position: int = 0
    fraction: float = 0.0
    status: bytes = b""
    outcome: Outcome | None = None
    watchers: int = 0
    log: EventLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = EventLog(self.record)

    @property
    def names(self) -> dict[str, str]:
        """By which log lines tell it from others."""
        return self.record().names

    def move_to(self, state: JobState) -> None:
        """Changes state.

        Raises:
            ValueError: no such transition.
        """
        if state not in _NEXT.get(self.state, set()):
            raise ValueError(f"job {self.job_id} cannot go from {self.state} to {state}")
        self.state = state

    def record(self) -> JobRecord:
        """As it is now."""
        return JobRecord(
            job_id=self.job_id,
            request_id=self.request_id,
            owner=self.owner,
            client=self.client,
            kind=self.request.kind,
            payload=self.payload,
            size=self.size,
            areas=self.areas,
            memory=self.memory,
            seconds=self.seconds,
            state=self.state,
            created_at=self.created_at,
            began_at=self.began_at,
            ended_at=self.ended_at,
            attempts=self.attempts,
            epoch=self.epoch,
            sequence=self.log.sequence,
            status=self.status,
            outcome=self.outcome,
            fraction=self.fraction,
            queue_position=self.queue_position,
        )
