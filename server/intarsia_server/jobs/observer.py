"""Who is told what becomes of jobs."""

from __future__ import annotations

from typing import Protocol

from intarsia_server.jobs.events import JobEvent
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord


class JobObserver(Protocol):
    """Called in the event loop; must neither block nor raise."""

    def accepted(self, job: Job) -> None:
        """It is queued: for the first time, in the context of its call, or found at the server's start."""

    def refused(self, client: str, error: Exception) -> None:
        """A job of this client was not taken."""

    def started(self, job: Job) -> None:
        """A worker begins with it: again, when an earlier one died over it or an earlier server left it."""

    def published(self, job: Job, event: JobEvent) -> None:
        """It has an event."""

    def ended(self, job: Job, error: Exception | None) -> None:
        """Nothing follows; the state says how it ended. One that stays queued goes on at the server's next start."""

    def lost(self, record: JobRecord, error: Exception) -> None:
        """It was found at the server's start, but cannot go on, and has failed."""
