"""Who is told what becomes of jobs."""

from __future__ import annotations

from typing import Protocol

from intarsia_server.jobs.events import JobEvent
from intarsia_server.jobs.model import Job


class JobObserver(Protocol):
    """Called in the event loop; must neither block nor raise."""

    def accepted(self, job: Job) -> None:
        """It is queued: for the first time, or found at the server's start."""

    def refused(self, client: str, error: Exception) -> None:
        """A job of this client was not taken."""

    def started(self, job: Job) -> None:
        """A worker begins with it."""

    def published(self, job: Job, event: JobEvent) -> None:
        """It has an event."""

    def ended(self, job: Job, error: Exception | None) -> None:
        """Nothing follows; the state says how it ended. One that stays queued goes on at the server's next start."""
