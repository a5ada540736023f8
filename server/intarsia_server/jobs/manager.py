"""Admission, queue and life of the jobs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import ExecutionCancelledError, Executor, ResultEvent
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, JobEvent, QueuedEvent
from intarsia_server.jobs.model import Job, JobState
from intarsia_server.jobs.observer import JobObserver
from intarsia_server.logs import log_fields

log = logging.getLogger(__name__)


class QueueFullError(RuntimeError):
    """No room for another job; try again after `retry_seconds`."""

    def __init__(self, retry_seconds: float) -> None:
        super().__init__("the queue is full")
        self.retry_seconds = retry_seconds


class DrainingError(RuntimeError):
    """The server is on its way down and takes no new job, or cannot finish this one."""


class DuplicateRequestError(RuntimeError):
    """A job with this request id is still queued or running."""


class JobCancelledError(RuntimeError):
    """The job was cancelled."""


class JobManager:
    """Runs jobs on an executor, in the order they came, `executor.slots` at a time.

    Args:
        executor: already started or about to be; jobs wait for it.
        capacity: how many jobs may wait.
        observers: hear of every job.
    """

    def __init__(self, executor: Executor, *, capacity: int, observers: Sequence[JobObserver] = ()) -> None:
        self._executor = executor
        self._observers = observers
        self._capacity = capacity
        self._queue: deque[Job] = deque()
        self._active: dict[str, Job] = {}
        self._arrived = asyncio.Event()
        self._runners: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._recent_seconds = 30.0

    def start(self) -> None:
        """Begins to take jobs from the queue."""
        self._runners = [asyncio.create_task(self._run_jobs()) for _ in range(self._executor.slots)]

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs being worked on."""
        return sum(job.state is JobState.RUNNING for job in self._active.values())

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Those that wait or are being worked on, in the order they came."""
        return tuple(self._active.values())

    @property
    def next_position(self) -> int:
        """Jobs before the next one; 0 when a worker is free."""
        free = self._executor.slots - self.running
        return max(0, len(self._queue) + 1 - free)

    def check_admission(self, request_id: str) -> None:
        """Whether a job could be taken now; asked before its pictures are decoded, which is the dear part.

        Raises:
            DrainingError, DuplicateRequestError, QueueFullError: it could not.
        """
        error = self._why_refused(request_id)
        if error is not None:
            for observer in self._observers:
                observer.refused("", error)
            raise error

    def submit(
        self, request: Work, *, request_id: str, size: tuple[int, int], areas: Mapping[str, float] | None = None
    ) -> Job:
        """Queues a job; size and areas are as of `Job`.

        Raises:
            DrainingError, DuplicateRequestError, QueueFullError: see `check_admission`.
        """
        self.check_admission(request_id)
        job = Job(str(uuid.uuid4()), request_id, request, size, areas=areas or {})
        job.queue_position = self.next_position
        self._active[request_id] = job
        self._idle.clear()
        self._queue.append(job)
        for observer in self._observers:
            observer.accepted(job)
        self._publish(job, AcceptedEvent(job.job_id, request_id, job.queue_position, *size))
        with log_fields(job.names):
            log.info("job %s accepted: %s, %dx%d", job.job_id, request.kind, *size)
        self._arrived.set()
        return job

    def cancel(self, job: Job) -> None:
        """Stops a job: at once when it waits, within one step when it runs. Does nothing when it has ended."""
        job.cancel.set()
        if job.state is JobState.QUEUED:
            self._queue.remove(job)
            self._end(job, JobState.CANCELLED, self._why_cancelled())
            self._announce_positions()

    async def drain(self, grace: float) -> None:
        """Takes no new jobs, lets the others finish for `grace` seconds, then cancels what is left."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        for job in list(self._active.values()):
            with log_fields(job.names):
                log.warning("job %s cancelled: the grace period is over", job.job_id)
            self.cancel(job)
        await self._idle.wait()
        for runner in self._runners:
            runner.cancel()
            with suppress(asyncio.CancelledError):
                await runner

    async def _run_jobs(self) -> None:
        while True:
            while not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
            job = self._queue.popleft()
            job.move_to(JobState.RUNNING)
            self._announce_positions()
            with log_fields(job.names):
                await self._run(job)

    async def _run(self, job: Job) -> None:
        job.started_at = time.monotonic()
        for observer in self._observers:
            observer.started(job)
        try:
            async for event in self._executor.run(job.request, job.cancel):
                self._publish(job, event)
                if isinstance(event, ResultEvent):
                    run_seconds = time.monotonic() - job.started_at
                    self._recent_seconds = run_seconds
                    self._publish(job, CompletedEvent(job.started_at - job.queued_at, run_seconds, event.stages))
        except ExecutionCancelledError:
            self._end(job, JobState.CANCELLED, self._why_cancelled())
        except Exception as error:  # a failed job must not end the runner; its reader gets the error
            self._end(job, JobState.FAILED, error)
        else:
            self._end(job, JobState.SUCCEEDED)

    def _publish(self, job: Job, event: JobEvent) -> None:
        job.log.publish(event)
        for observer in self._observers:
            observer.published(job, event)

    def _why_refused(self, request_id: str) -> Exception | None:
        if self._draining:
            return DrainingError("the server is shutting down")
        if request_id in self._active:
            return DuplicateRequestError(f"a job with request_id {request_id} is still queued or running")
        if len(self._active) >= self._capacity + self._executor.slots:
            return QueueFullError(self._recent_seconds)
        return None

    def _why_cancelled(self) -> Exception:
        if self._draining:
            return DrainingError("the server shut down before the job was done")
        return JobCancelledError("the job was cancelled")

    def _end(self, job: Job, state: JobState, error: Exception | None = None) -> None:
        job.move_to(state)
        del self._active[job.request_id]
        if not self._active:
            self._idle.set()
        seconds = time.monotonic() - (job.started_at or job.queued_at)
        with log_fields(job.names):
            log.info("job %s %s after %.1f s%s", job.job_id, state, seconds, f": {error}" if error else "")
        for observer in self._observers:
            observer.ended(job, error)
        job.log.close(error)

    def _announce_positions(self) -> None:
        free = self._executor.slots - self.running
        for index, job in enumerate(self._queue):
            position = max(0, index + 1 - free)
            if position != job.queue_position:
                job.queue_position = position
                self._publish(job, QueuedEvent(position))
