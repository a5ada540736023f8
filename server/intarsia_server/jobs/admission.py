"""Who is let in: limits on what waits, and deadlines that cannot be met."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from intarsia_server.jobs.forecast import UNKNOWN, Forecast, least_seconds
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.queue import FIRST_GUESS, FairQueue
from intarsia_server.jobs.record import JobState
from intarsia_server.jobs.waiting import expected_wait

MARGIN = 0.75
"""Share of an estimate that a job is held to: one that is told 25% too long a time is not refused for it."""

LEAST_RETRY = 0.1
"""Seconds: sooner than that, nobody is told to come back."""


class QueueFullError(RuntimeError):
    """No room for another job; try again after `retry_seconds`."""

    def __init__(self, retry_seconds: float, message: str = "the queue is full") -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


class QuotaError(QueueFullError):
    """The client has as many jobs as one client may have; try again after `retry_seconds`."""


class DeadlineError(RuntimeError):
    """The job would not be done by the time that its call has."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may wait; 0 is no limit but for `waiting`.

    Attributes:
        waiting: jobs.
        memory: bytes that all waiting jobs are thought to take. One job alone may wait whatever it takes.
        per_client: jobs of one client that wait or run.
    """

    waiting: int
    memory: int = 0
    per_client: int = 0


class Place:
    """A place among the jobs that is held while a request's pictures are looked at; `with` gives it back."""

    def __init__(self, admission: Admission, client: str, places: set[Place]) -> None:
        self.client = client
        self.forecast = UNKNOWN
        self._admission = admission
        self._places = places

    def __enter__(self) -> Self:
        self._places.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._places.discard(self)

    def expect(self, forecast: Forecast, deadline: float | None = None) -> None:
        """Takes note of what the job will take.

        Args:
            forecast: of the job.
            deadline: monotonic seconds by which it is of use; None: whenever it is done.

        Raises:
            QueueFullError: the waiting jobs take too much memory for it.
            DeadlineError: it cannot be done in time.
        """
        self.forecast = forecast
        self._admission.check_memory(self)
        if deadline is not None:
            self._admission.check_deadline(self, deadline)


class Admission:
    """Refuses what there is no room for, before anything is done for it.

    Args:
        limits: to hold.
        slots: how many jobs run at a time.
        queue: of the jobs that wait.
        jobs: those that wait or run.
        on_refused: told whom it refuses, and why.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        slots: int,
        queue: FairQueue,
        jobs: Callable[[], Collection[Job]],
        on_refused: Callable[[str, Exception], None],
    ) -> None:
        self._limits = limits
        self._slots = slots
        self._queue = queue
        self._jobs = jobs
        self._on_refused = on_refused
        self._places: set[Place] = set()
        self._questions: set[Place] = set()

    def enter(self, client: str) -> Place:
        """A place for a job.

        Raises:
            QueueFullError, QuotaError: there is none.
        """
        if len(self._jobs()) + len(self._places) >= self._limits.waiting + self._slots:
            raise self._refused(client, QueueFullError(self._retry()))
        theirs = sum(job.client == client for job in self._jobs()) + _count(self._places, client)
        self._check_quota(client, theirs)
        place = Place(self, client, self._places)
        self.check_memory(place)
        return place

    def ask(self, client: str) -> Place:
        """A place for a question about a job. They are as many as jobs may be, and take no job's place.

        Raises:
            QueueFullError, QuotaError: there is none.
        """
        if len(self._questions) >= self._limits.waiting + self._slots:
            raise self._refused(client, QueueFullError(LEAST_RETRY, "too many requests are being looked at"))
        self._check_quota(client, _count(self._questions, client))
        return Place(self, client, self._questions)

    def check_memory(self, place: Place) -> None:
        """Raises QueueFullError where the waiting jobs have no memory left for a place's."""
        if not self._limits.memory:
            return
        # The first of them need not wait.
        free = max(0, self._slots - len(self._running()))
        others = [job.memory for job in self._queue]
        others += [other.forecast.memory for other in self._places if other is not place]
        if len(others) < free:
            return
        taken = sum(others[free:])
        # A job that is alone with what it takes would otherwise never get in.
        if taken and taken + max(place.forecast.memory, 1) > self._limits.memory:
            message = "the jobs that wait take all the memory that is set aside for them"
            raise self._refused(place.client, QueueFullError(self._retry(), message))

    def check_deadline(self, place: Place, deadline: float) -> None:
        """Raises DeadlineError where a place's job would not be done by then, in monotonic seconds."""
        left = deadline - time.monotonic()
        wait = self.wait(place.client, _least_seconds) or 0.0
        needed = wait + place.forecast.least_seconds
        if MARGIN * needed > left:
            message = (
                f"the job would take {needed:.1f} s ({wait:.1f} s of them in the queue), "
                f"the call's deadline leaves {max(0.0, left):.1f} s"
            )
            raise self._refused(place.client, DeadlineError(message))

    def wait(self, client: str, seconds_of: Callable[[Job], float | None]) -> float | None:
        """Seconds until a worker would take one more job of that client, as `expected_wait`."""
        return expected_wait(
            [*self._running(), *self._queue.ahead(client)], self._slots, seconds_of, now=time.monotonic()
        )

    def _running(self) -> list[Job]:
        return [job for job in self._jobs() if job.state is JobState.RUNNING]

    def _check_quota(self, client: str, count: int) -> None:
        if self._limits.per_client and count >= self._limits.per_client:
            message = f"a client may have {self._limits.per_client} jobs at a time"
            raise self._refused(client, QuotaError(self._retry(), message))

    def _refused(self, client: str, error: Exception) -> Exception:
        self._on_refused(client, error)
        return error

    def _retry(self) -> float:
        """Seconds until the next job ends, and room is made."""
        now = time.monotonic()
        left = [
            job.started_at + self._queue.seconds_of(job) - now for job in self._jobs() if job.started_at is not None
        ]
        return max(LEAST_RETRY, min(left, default=FIRST_GUESS))


def _count(places: set[Place], client: str) -> int:
    return sum(place.client == client for place in places)


def _least_seconds(job: Job) -> float:
    return least_seconds(job.request, job.seconds)
