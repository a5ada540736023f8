"""Admission, queue and life of the jobs."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import ExecutionCancelledError, Executor, ResultEvent
from intarsia_server.jobs.admission import Admission, Limits, Place
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, QueuedEvent
from intarsia_server.jobs.model import Job, JobState
from intarsia_server.jobs.queue import FairQueue

log = logging.getLogger(__name__)


class DrainingError(RuntimeError):
    """The server is on its way down and takes no new job, or cannot finish this one."""


class DuplicateRequestError(RuntimeError):
    """A job with this request id is still queued or running."""


class JobCancelledError(RuntimeError):
    """The job was cancelled."""


class JobManager:
    """Runs jobs on an executor, in fair turns between clients, `executor.slots` at a time.

    Args:
        executor: already started or about to be; jobs wait for it.
        limits: on what may wait.
    """

    def __init__(self, executor: Executor, *, limits: Limits) -> None:
        self._executor = executor
        self._queue = FairQueue()
        self._active: dict[str, Job] = {}
        self.admission = Admission(
            limits, slots=executor.slots, queue=self._queue, jobs=self._active.values, on_refused=self._on_refused
        )
        self._arrived = asyncio.Event()
        self._runners: list[asyncio.Task[None]] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

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

    def next_position(self, client: str) -> int:
        """Jobs before the client's next one; 0 when a worker is free."""
        free = self._executor.slots - self.running
        return max(0, len(self._queue.ahead(client)) + 1 - free)

    def admit(self, request_id: str, client: str) -> Place:
        """A place for a job, to be held until it is queued: taken before its pictures are decoded, the dear part.

        Raises:
            DrainingError, DuplicateRequestError, QueueFullError, QuotaError: there is none.
        """
        self._check_new(request_id)
        return self.admission.enter(client)

    def submit(
        self,
        request: Work,
        place: Place,
        *,
        request_id: str,
        size: tuple[int, int],
        areas: Mapping[str, float] | None = None,
    ) -> Job:
        """Queues a job in a place that `admit` gave it; size and areas are as of `Job`.

        Raises:
            DrainingError, DuplicateRequestError: since then the server drains, or the id has been used.
        """
        self._check_new(request_id)
        job = Job(str(uuid.uuid4()), request_id, request, size, areas or {}, client=place.client)
        job.memory, job.seconds = place.forecast.memory, place.forecast.seconds
        job.queue_position = self.next_position(job.client)
        self._active[request_id] = job
        self._idle.clear()
        self._queue.append(job)
        job.log.publish(AcceptedEvent(job.job_id, request_id, job.queue_position, *size))
        log.info("job %s accepted: %s, %dx%d", job.job_id, request.kind, *size)
        self._announce_positions()
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
            job = self._queue.pop()
            job.move_to(JobState.RUNNING)
            self._announce_positions()
            await self._run(job)

    async def _run(self, job: Job) -> None:
        job.started_at = time.monotonic()
        try:
            async for event in self._executor.run(job.request, job.cancel):
                job.log.publish(event)
                if isinstance(event, ResultEvent):
                    run_seconds = time.monotonic() - job.started_at
                    job.log.publish(CompletedEvent(job.started_at - job.queued_at, run_seconds, event.stages))
        except ExecutionCancelledError:
            self._end(job, JobState.CANCELLED, self._why_cancelled())
        except Exception as error:  # a failed job must not end the runner; its reader gets the error
            self._end(job, JobState.FAILED, error)
        else:
            self._end(job, JobState.SUCCEEDED)

    def _on_refused(self, client: str, error: Exception) -> None:
        log.debug("refused a job of %s: %s", client, error)

    def _check_new(self, request_id: str) -> None:
        if self._draining:
            raise DrainingError("the server is shutting down")
        if request_id in self._active:
            raise DuplicateRequestError(f"a job with request_id {request_id} is still queued or running")

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
        if job.started_at is not None:
            self._queue.settle(job, seconds)
        log.info("job %s %s after %.1f s%s", job.job_id, state, seconds, f": {error}" if error else "")
        job.log.close(error)

    def _announce_positions(self) -> None:
        free = self._executor.slots - self.running
        for index, job in enumerate(self._queue):
            position = max(0, index + 1 - free)
            if position != job.queue_position:
                job.queue_position = position
                job.log.publish(QueuedEvent(position))
