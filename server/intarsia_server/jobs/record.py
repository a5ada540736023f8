"""What is kept of a job: as it is told to its owner, and as the store has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from intarsia_server.engine.request import ImageFormat
from intarsia_server.engine.stages import StageDone


class JobState(StrEnum):
    """queued -> running -> succeeded | failed | cancelled.

    A queued job may be cancelled or fail too, and a running one is queued again when its worker or the server dies.
    """

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing can follow."""
        return self not in ACTIVE


ACTIVE = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class Outcome:
    """What a transfer that succeeded has left.

    Attributes:
        sha256: of the encoded picture, in hexadecimal; its name in the file store.
        size_bytes: of the encoded picture.
        format: of the encoded picture.
        width: in pixels.
        height: in pixels.
        sequence: number of the first message that the picture was sent in.
        chunk_bytes: what a message holds of it, which is what the numbers after it hang on.
        queued_seconds: until a worker took it for the first time.
        run_seconds: from then on.
        stages: what they ended with.
    """

    sha256: str
    size_bytes: int
    format: ImageFormat
    width: int
    height: int
    sequence: int
    chunk_bytes: int
    queued_seconds: float
    run_seconds: float
    stages: tuple[StageDone, ...]


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job at one moment.

    Attributes:
        job_id: UUID, made by the server.
        request_id: UUID, chosen by the client; an owner has it once.
        owner: who may see the job.
        client: who takes turns with whom.
        kind: of the request.
        payload: SHA-256 of the request, and its name in the file store; "" for a job that does not outlive the server.
        size: (width, height) of the result in pixels.
        areas: as of `Job`.
        memory: estimated bytes on the device; 0: not known.
        seconds: estimated; None: not known.
        state: see `JobState`.
        created_at: seconds since the epoch, as the next two.
        began_at: when a worker took it for the first time; None: none has.
        ended_at: None: it has not.
        attempts: how often a worker has begun with it.
        epoch: how often it was found at a server's start; events are numbered anew from there.
        sequence: of its newest event.
        status: what it failed or was cancelled with, as `JobManager`'s `describe` put it; else empty.
        outcome: of a transfer that succeeded.
        fraction: share of the job that is done, 0 to 1.
        queue_position: jobs before it.
        number: grows with every job of the store; 0 for one that is not stored yet.
    """

    job_id: str
    request_id: str
    owner: str
    client: str
    kind: str
    payload: str
    size: tuple[int, int]
    areas: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0
    seconds: float | None = None
    state: JobState = JobState.QUEUED
    created_at: float = 0.0
    began_at: float | None = None
    ended_at: float | None = None
    attempts: int = 0
    epoch: int = 0
    sequence: int = 0
    status: bytes = b""
    outcome: Outcome | None = None
    fraction: float = 0.0
    queue_position: int = 0
    number: int = 0

    @property
    def names(self) -> dict[str, str]:
        """By which log lines tell it from others."""
        return {"job_id": self.job_id, "request_id": self.request_id, "owner": self.owner}
