"""Admission, queue and life of the jobs."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import (
    EvaluatedEvent,
    ExecutionCancelledError,
    Executor,
    ProgressEvent,
    ResultEvent,
    ResumedEvent,
    SegmentedEvent,
    WorkerDiedError,
)
from intarsia_server.executors.checkpoint_files import remove_checkpoint
from intarsia_server.jobs.admission import Admission, Limits, Place
from intarsia_server.jobs.archive import Archive
from intarsia_server.jobs.errors import DrainingError, DuplicateRequestError, JobCancelledError, UnknownJobError
from intarsia_server.jobs.events import (
    AcceptedEvent,
    CompletedEvent,
    JobEvent,
    Numbered,
    QueuedEvent,
    StoredResultEvent,
)
from intarsia_server.jobs.model import Job, Payload
from intarsia_server.jobs.observer import JobObserver
from intarsia_server.jobs.queue import FairQueue
from intarsia_server.jobs.record import JobRecord, JobState, Outcome
from intarsia_server.jobs.recovery import EPOCH, revived
from intarsia_server.jobs.storage import StorageError
from intarsia_server.logs import log_fields

log = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Workers that a job may take along before it is taken to be its fault."""

SUSPEND_SECONDS = 5.0
"""What the end of a server takes at most, once its jobs have been told to stop."""

LEAVE_SECONDS = 0.5
"""After the last call that a job hung on: a client whose connection broke may be back within it. One that wants the job
to end says so (`cancel`), and does not have to wait."""

TAKE_UP_SECONDS = 2.0
"""Between two tries to take up the jobs of an earlier server, while the disk is full."""


class JobManager:
    """Runs jobs on an executor, in fair turns between clients, `executor.slots` at a time, and keeps them.

    Args:
        executor: already started or about to be; jobs wait for it.
        archive: what is kept of jobs.
        checkpoints: folder in which a job's checkpoint has the job's id for a name.
        limits: on what may wait.
        chunk_bytes: pictures above this size are sent in chunks of it.
        durable: whether another server will find in the archive what this one leaves there.
        revive: makes a payload's data a request again; it may raise what the executor may. Blocks.
        describe: turns an error into what the archive keeps of it.
        observers: are told what becomes of jobs.
    """

    def __init__(
        self,
        executor: Executor,
        archive: Archive,
        checkpoints: Path,
        *,
        limits: Limits,
        chunk_bytes: int,
        durable: bool,
        revive: Callable[[bytes], Work],
        describe: Callable[[Exception], bytes],
        observers: Sequence[JobObserver] = (),
    ) -> None:
        self._executor = executor
        self._archive = archive
        self._checkpoints = checkpoints
        self._chunk_bytes = chunk_bytes
        self._durable = durable
        self._revive = revive
        self._describe = describe
        self._observers = observers
        self._queue = FairQueue()
        self._active: dict[str, Job] = {}
        self.admission = Admission(
            limits, slots=executor.slots, queue=self._queue, jobs=self._unended, on_refused=self._refused
        )
        self._found: deque[JobRecord] = deque()
        self._left: dict[Job, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()
        self._runners: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._suspending = False

    async def recover(self) -> None:
        """Queues again what the last server on this archive had queued or running; asked before any job is taken."""
        self._found.extend(await self._archive.open())
        try:
            await self._take_up_found()
        except StorageError as error:
            log.error("%d jobs wait until they can be stored: %s", len(self._found), error.reason)  # noqa: TRY400 - no defect
        wanted = self._active.keys() | {record.job_id for record in self._found}
        for path in self._checkpoints.iterdir():
            if path.name not in wanted:
                path.unlink()

    def start(self) -> None:
        """Begins to take jobs from the queue."""
        self._runners = [asyncio.create_task(self._run_jobs()) for _ in range(self._executor.slots)]
        self._runners.append(asyncio.create_task(self._archive.keep_swept()))
        self._runners.append(asyncio.create_task(self._take_up_rest()))

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

    def next_position(self, client: str) -> int:
        """Jobs before the client's next one; 0 when a worker is free."""
        free = self._executor.slots - self.running
        return max(0, len(self._queue.ahead(client)) + 1 - free)

    def admit(self, client: str) -> Place:
        """A place for a job, to be held until it is queued: taken before anything is done with its pictures.

        Raises:
            DrainingError, QueueFullError, QuotaError: there is none.
        """
        self._check_draining(client)
        return self.admission.enter(client)

    async def knows(self, owner: str, request_id: str) -> bool:
        """Whether the owner has a job with that request id, which a request may be sent again to attach to."""
        return bool(self._find_active(owner, request_id) or await self._archive.find(owner, request_id))

    async def find(self, owner: str, request_id: str, payload: Payload) -> Job | JobRecord | None:
        """The owner's job with that request id; None: there is none.

        Raises:
            DuplicateRequestError: it is another job than the payload's.
        """
        found = self._find_active(owner, request_id) or await self._archive.find(owner, request_id)
        # It may have ended, or come, while the archive was asked.
        return None if found is None else self._same(self._active.get(found.job_id, found), payload.sha256)

    def submit(
        self,
        request: Work,
        place: Place,
        *,
        request_id: str,
        size: tuple[int, int],
        areas: Mapping[str, float] | None = None,
        payload: Payload | None = None,
        owner: str = "",
    ) -> Job:
        """Takes a job; it is queued as soon as it is stored, and if it cannot be stored its events end with that error.

        Args:
            request: to run.
            place: that `admit` gave it.
            request_id: if the owner has such a job already, waiting or running, that one is returned.
            size: as of `Job`, and so are areas and owner.
            areas: see size.
            payload: of the request; without it, the job ends with the server.
            owner: see size.

        Raises:
            DrainingError: the server has begun to drain since then.
            DuplicateRequestError: as `find`.
        """
        name = payload.sha256 if payload else ""
        if (same := self._find_active(owner, request_id)) is not None:
            self._same(same, name)
            return same
        self._check_draining(place.client)
        job = Job(str(uuid.uuid4()), request_id, request, size, areas or {}, place.client, owner, payload=name)
        job.memory, job.seconds = place.forecast.memory, place.forecast.seconds
        self._active[job.job_id] = job
        self._idle.clear()
        self._spawn(job, self._admit(job, payload.data if payload else b""))
        return job

    async def get(self, job_id: str, owner: str) -> Job | JobRecord:
        """One job; as a record once it has ended.

        Raises:
            UnknownJobError: the owner has no such job.
        """
        found = self._active.get(job_id) or await self._archive.get(job_id)
        if found is not None and found.owner != owner:
            log.warning("job %s refused to %r, whose job it is not", job_id, owner)
        if found is None or found.owner != owner:
            raise UnknownJobError("there is no such job")
        return self._active.get(job_id, found)

    async def page(
        self, owner: str, states: Collection[JobState], *, before: int | None, limit: int
    ) -> Sequence[JobRecord]:
        """The owner's jobs as they are now, newest first; see `JobStore.page`."""
        records = await self._archive.page(owner, states, before=before, limit=limit)
        return [
            replace(self._active[record.job_id].record(), number=record.number)
            if record.job_id in self._active
            else record
            for record in records
        ]

    async def check_result(self, outcome: Outcome) -> None:
        """As `Archive.check_result`."""
        await self._archive.check_result(outcome)

    async def read_result(self, outcome: Outcome, offset: int, size: int) -> bytes:
        """As `Archive.read_result`."""
        return await self._archive.read_result(outcome, offset, size)

    async def events(
        self, job: Job | JobRecord, *, after: int = 0, heartbeat: float, leave_seconds: float | None = None
    ) -> AsyncGenerator[Numbered | None, None]:
        """A job's events after the one with that number, and None for every `heartbeat` seconds without.

        Args:
            job: whose.
            after: number of the last message that the reader has.
            heartbeat: in seconds.
            leave_seconds: when the reader leaves and nobody else watches, the job is cancelled so many seconds later,
                unless another reader comes; infinite: it goes on. None: it goes on too, but a reader that comes within
                those seconds takes the place of the one that left.

        Raises:
            Exception: what the job failed or was cancelled with.
        """
        if isinstance(job, JobRecord):
            if not job.state.ended:
                raise DrainingError("the job goes on when the server starts again, or has room to store it")
            past = await self._archive.log_of(job, after=after)
            async for numbered in past.read(after, heartbeat=heartbeat):
                yield numbered
            return
        if (left := self._left.pop(job, None)) is not None:
            left.cancel()
            leave_seconds = LEAVE_SECONDS if leave_seconds is None else leave_seconds
        job.watchers += 1
        try:
            # A number that has not been given yet can only come from another server; what follows is new all the same.
            async with aclosing(job.log.read(min(after, job.log.sequence), heartbeat=heartbeat)) as numbereds:
                async for numbered in numbereds:
                    yield numbered
        finally:
            job.watchers -= 1
            if leave_seconds is not None and not job.watchers:
                self._leave_alone(job, leave_seconds)

    def cancel(self, job: Job) -> None:
        """Stops a job: at once when it waits, within one step when it runs. Does nothing when it has ended."""
        job.cancel.set()
        if job in self._queue:
            self._queue.remove(job)
            self._spawn(job, self._end_cancelled(job))
            self._announce_positions()

    async def drain(self, grace: float) -> None:
        """Takes no new jobs and lets the others finish for `grace` seconds.

        What is left then is cancelled. If the archive is durable, it is left in it for the next server, early enough
        for this one to be gone when the time is over.
        """
        self._draining = True
        if self._durable:
            grace -= min(SUSPEND_SECONDS, grace / 2)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        self._suspending = True
        for job in self._active.values():
            if not job.cancel.is_set():
                job.suspended = True
                job.cancel.set()
        for job in list(self._queue):
            self._queue.remove(job)
            self._spawn(job, self._suspend(job))
        await self._idle.wait()
        for runner in self._runners:
            runner.cancel()
            with suppress(asyncio.CancelledError):
                await runner
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _admit(self, job: Job, payload: bytes) -> None:
        try:
            await self._archive.accept(job.record(), payload)
        except StorageError as error:
            log.error("job %s refused: %s", job.job_id, error.reason)  # noqa: TRY400 - no defect, no traceback
            self._refused(job.client, error)
            self._drop(job)
            job.log.close(error)
            return
        job.queue_position = self.next_position(job.client)
        accepted = AcceptedEvent(job.job_id, job.request_id, job.queue_position, *job.size)
        self._publish(job, accepted, at=job.created_at)
        self._accepted(job)
        self._announce_positions()
        log.info("job %s accepted: %s, %dx%d", job.job_id, job.request.kind, *job.size)

    async def _take_up_found(self) -> None:
        """Queues the jobs of earlier servers, none before its epoch is stored, which else would be given again.

        Raises:
            StorageError: it cannot be stored.
        """
        while self._found:
            record = self._found[0]
            epoch = record.epoch + 1
            await self._archive.store(replace(record, state=JobState.QUEUED, epoch=epoch))
            self._found.popleft()
            with log_fields(record.names):
                await self._recover(replace(record, epoch=epoch))
        self._announce_positions()

    async def _take_up_rest(self) -> None:
        """Does so as soon as there is room."""
        while self._found:
            await asyncio.sleep(TAKE_UP_SECONDS)
            with suppress(StorageError):
                await self._take_up_found()

    async def _recover(self, record: JobRecord) -> None:
        try:
            job = await revived(record, self._archive, self._revive)
        except Exception as error:  # whatever the job would fail with; it must not keep the server from starting
            log.warning("job %s cannot go on: %s", record.job_id, error)
            ended = replace(record, state=JobState.FAILED, ended_at=time.time(), status=self._describe(error))
            await self._archive.save(replace(ended, sequence=record.epoch * EPOCH))
            for observer in self._observers:
                observer.lost(ended, error)
            return
        self._active[job.job_id] = job
        self._idle.clear()
        self._accepted(job)
        log.info("job %s queued again: %s, %dx%d", job.job_id, job.request.kind, *job.size)

    def _accepted(self, job: Job) -> None:
        for observer in self._observers:
            observer.accepted(job)
        if self._suspending:
            job.suspended = not job.cancel.is_set() or job.suspended
            self._spawn(job, self._suspend(job) if job.suspended else self._end_cancelled(job))
            return
        self._queue.append(job)
        self._arrived.set()
        if job.cancel.is_set():
            self.cancel(job)

    async def _run_jobs(self) -> None:
        while True:
            while not len(self._queue):
                self._arrived.clear()
                await self._arrived.wait()
            job = self._queue.pop()
            with log_fields(job.names):
                await self._run(job)

    async def _run(self, job: Job) -> None:
        job.move_to(JobState.RUNNING)
        job.started_at = time.monotonic()
        job.began_at = job.began_at or time.time()
        job.attempts += 1
        job.queue_position = 0
        for observer in self._observers:
            observer.started(job)
        self._announce_positions()
        self._spawn(job, self._archive.save(job.record()))
        try:
            final = await self._execute(job)
        except (ExecutionCancelledError, WorkerDiedError) as error:
            await self._stopped(job, error)
        except Exception as error:  # a failed job must not end the runner; its reader gets the error
            await self._end(job, JobState.FAILED, error)
        else:
            if isinstance(final, ResultEvent):
                await self._succeed(job, final)
            else:
                self._publish(job, final)
                await self._end(job, JobState.SUCCEEDED)

    async def _stopped(self, job: Job, error: ExecutionCancelledError | WorkerDiedError) -> None:
        """A running job has stopped because it was told to, or because its worker died."""
        if job.suspended:
            await self._suspend(job)
        elif job.cancel.is_set():
            await self._end_cancelled(job)
        else:
            job.deaths += 1
            if job.deaths < MAX_DEATHS:
                self._queue_again(job)
            else:
                await self._end(job, JobState.FAILED, error)

    async def _execute(self, job: Job) -> ResultEvent | EvaluatedEvent | SegmentedEvent:
        """Runs a job and publishes all events but the last, which it returns."""
        checkpoint = self._checkpoints / job.job_id if job.payload else None
        begins_anew = job.attempts > 1
        cost = self._queue.seconds_of(job)
        async with aclosing(self._executor.run(job.request, job.cancel, checkpoint, cost=cost)) as events:
            async for event in events:
                if begins_anew and not isinstance(event, ResumedEvent):
                    self._publish(job, ResumedEvent("", 0))
                begins_anew = False
                if isinstance(event, ResultEvent | EvaluatedEvent | SegmentedEvent):
                    final = event
                else:
                    if isinstance(event, ProgressEvent):
                        job.fraction = event.fraction
                    self._publish(job, event)
        return final

    def _queue_again(self, job: Job) -> None:
        log.warning("job %s goes on with another worker: its own died", job.job_id)
        job.move_to(JobState.QUEUED)
        job.started_at = None
        self._queue.append_left(job)
        self._arrived.set()
        self._spawn(job, self._archive.save(job.record()))

    async def _succeed(self, job: Job, result: ResultEvent) -> None:
        """Stores the picture before anybody sees it: what has been seen is what will be seen."""
        assert job.began_at is not None
        now = time.time()
        completed = CompletedEvent(max(0.0, job.began_at - job.created_at), max(0.0, now - job.began_at), result.stages)
        first = job.log.sequence + 1
        outcome = Outcome(
            sha256=await asyncio.to_thread(lambda: hashlib.sha256(result.image).hexdigest()),
            size_bytes=len(result.image),
            format=result.format,
            width=result.width,
            height=result.height,
            sequence=first,
            chunk_bytes=self._chunk_bytes,
            queued_seconds=completed.queued_seconds,
            run_seconds=completed.run_seconds,
            stages=result.stages,
        )
        stored = StoredResultEvent(outcome)
        ended = replace(
            job.record(),
            state=JobState.SUCCEEDED,
            ended_at=now,
            sequence=first + stored.chunks + 1,
            fraction=1.0,
            outcome=outcome,
        )
        try:
            await self._archive.succeed(ended, result.image)
        except StorageError as error:
            await self._end(job, JobState.FAILED, error)
            return
        job.move_to(JobState.SUCCEEDED)
        job.ended_at, job.fraction, job.outcome = now, 1.0, outcome
        self._publish(job, stored, at=now)
        self._publish(job, completed, at=now)
        self._leave(job, None)

    def _end(self, job: Job, state: JobState, error: Exception | None = None) -> Coroutine[Any, Any, None]:
        """Ends a job without a picture, at once; what it returns stores that, and then tells everybody."""
        job.move_to(state)
        job.ended_at = time.time()
        job.fraction = 1.0 if state is JobState.SUCCEEDED else job.fraction
        job.status = b"" if error is None else self._describe(error)
        return self._store_end(job, error)

    def _end_cancelled(self, job: Job) -> Coroutine[Any, Any, None]:
        return self._end(job, JobState.CANCELLED, JobCancelledError("the job was cancelled"))

    async def _store_end(self, job: Job, error: Exception | None) -> None:
        await self._archive.save(job.record())
        self._leave(job, error)

    async def _suspend(self, job: Job) -> None:
        """Leaves a job to the next server, if there can be one."""
        error = DrainingError("the server shut down before the job was done")
        if not self._durable or not job.payload:
            log.warning("job %s cancelled: the grace period is over", job.job_id)
            await self._end(job, JobState.CANCELLED, error)
            return
        if job.state is JobState.RUNNING:
            job.move_to(JobState.QUEUED)
        await self._archive.save(job.record())
        log.info("job %s is left for the server's next start", job.job_id)
        self._leave(job, error)

    def _leave(self, job: Job, error: Exception | None) -> None:
        """Nothing more follows from this server: tells everybody."""
        self._drop(job)
        if job.started_at is not None:
            self._queue.settle(job, time.monotonic() - job.started_at)
        if job.state.ended:
            remove_checkpoint(self._checkpoints / job.job_id)
            seconds = time.time() - (job.began_at or job.created_at)
            log.info("job %s %s after %.1f s%s", job.job_id, job.state, seconds, f": {error}" if error else "")
        for observer in self._observers:
            observer.ended(job, error)
        job.log.close(error)

    def _leave_alone(self, job: Job, seconds: float) -> None:
        """Nobody is left whom the job is for."""
        if not seconds:
            self.cancel(job)
        elif seconds < math.inf and job.job_id in self._active:
            self._left[job] = asyncio.get_running_loop().call_later(seconds, self._miss, job)

    def _miss(self, job: Job) -> None:
        del self._left[job]
        self.cancel(job)

    def _drop(self, job: Job) -> None:
        if (left := self._left.pop(job, None)) is not None:
            left.cancel()
        del self._active[job.job_id]
        if not self._active:
            self._idle.set()

    def _spawn(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        with log_fields(job.names):  # which the task takes along
            task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _unended(self) -> list[Job]:
        """Those that take a place. One whose end is being stored does not: who has seen it end would be refused."""
        return [job for job in self._active.values() if not job.state.ended]

    def _check_draining(self, client: str) -> None:
        if self._draining:
            error = DrainingError("the server is shutting down")
            self._refused(client, error)
            raise error

    def _refused(self, client: str, error: Exception) -> None:
        log.debug("refused a job of %s: %s", client, error)
        for observer in self._observers:
            observer.refused(client, error)

    def _find_active(self, owner: str, request_id: str) -> Job | None:
        return next((job for job in self._active.values() if (job.owner, job.request_id) == (owner, request_id)), None)

    def _same(self, found: Job | JobRecord, payload: str) -> Job | JobRecord:
        if found.payload != payload:
            raise DuplicateRequestError(f"request_id {found.request_id} is another request's")
        return found

    def _publish(self, job: Job, event: JobEvent, *, at: float | None = None) -> None:
        job.log.publish(event, at=at)
        for observer in self._observers:
            observer.published(job, event)

    def _announce_positions(self) -> None:
        free = self._executor.slots - self.running
        for index, job in enumerate(self._queue):
            position = max(0, index + 1 - free)
            if position != job.queue_position:
                job.queue_position = position
                self._publish(job, QueuedEvent(position))
