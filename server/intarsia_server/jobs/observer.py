"""Whoever wants to hear what becomes of the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from intarsia_server.jobs.events import JobEvent

if TYPE_CHECKING:
    from intarsia_server.jobs.model import Job


class JobObserver(Protocol):
    """Is called in the event loop, by the task at work; it neither waits nor raises."""

    def accepted(self, job: Job) -> None:
        """The job has been queued, in the context of the call that brought it."""

    def refused(self, client: str, error: Exception) -> None:
        """A client's job was not taken."""

    def started(self, job: Job) -> None:
        """A worker has taken the job: again, when an earlier one died over it."""

    def published(self, job: Job, event: JobEvent) -> None:
        """The job has another event."""

    def ended(self, job: Job, error: Exception | None) -> None:
        """The job is in a final state, with an error unless it succeeded."""
