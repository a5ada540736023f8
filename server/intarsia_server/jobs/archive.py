"""What outlives a job: its record, its input until it has ended, its picture from then on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from weakref import WeakValueDictionary

from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, EventLog, StoredResultEvent
from intarsia_server.jobs.files import FileStore
from intarsia_server.jobs.folder import DataFolder
from intarsia_server.jobs.record import JobRecord, JobState, Outcome
from intarsia_server.jobs.storage import StorageError
from intarsia_server.jobs.store import JobStore
from intarsia_server.logs import log_fields

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0
"""At most, between two looks for what need not be kept any longer."""


class EndedJobError(RuntimeError):
    """A job of the past failed or was cancelled; `status` is what `JobManager`'s `describe` made of its error."""

    def __init__(self, status: bytes) -> None:
        super().__init__("the job did not succeed")
        self.status = status


class ResultGoneError(LookupError):
    """The job succeeded, but its picture is not kept any more."""


class Archive:
    """Jobs on disk.

    Args:
        folder: where.
        retention_seconds: how long a job is kept after its end.
        retention_bytes: of all pictures; beyond it, the jobs that ended first go.

    Raises:
        StorageError, StoreError: the folder cannot be used.
    """

    def __init__(self, folder: DataFolder, *, retention_seconds: float, retention_bytes: int) -> None:
        self._inputs = FileStore(folder.inputs)
        self._results = FileStore(folder.results)
        self._store = JobStore(folder.database, durable=folder.durable)
        self._retention_seconds = retention_seconds
        self._retention_bytes = retention_bytes
        self._unsaved: dict[str, JobRecord] = {}
        # A file may be wanted by one job while another's end removes it: the same request has the same name.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def open(self) -> Sequence[JobRecord]:
        """Clears what a killed server has left half done; returns the jobs that had not ended, oldest first."""
        inputs, results = await self._store.files()
        await asyncio.to_thread(self._inputs.keep_only, inputs)
        await asyncio.to_thread(self._results.keep_only, results)
        return await self._store.active()

    async def close(self) -> None:
        """Ends it; what has been asked for before is done."""
        await self._store.close()

    async def accept(self, record: JobRecord, payload: bytes) -> None:
        """Stores a new job; with a payload, so that another server can take it over.

        Raises:
            StorageError, StorageFullError: it is not stored, and nothing of it is left.
        """
        async with self._lock(record.payload):
            try:
                if record.payload:
                    await asyncio.to_thread(self._inputs.put, payload)
                await self._store.save(record)
            except StorageError:
                await self._remove(self._inputs, record.payload)
                raise

    async def input(self, record: JobRecord) -> bytes:
        """The payload of a job that has not ended.

        Raises:
            KeyError: it is damaged.
        """
        return await asyncio.to_thread(self._inputs.get, record.payload)

    async def store(self, record: JobRecord) -> None:
        """Stores how a job stands.

        Raises:
            StorageError, StorageFullError: the disk does not take it.
        """
        await self._store.save(record)

    async def save(self, record: JobRecord) -> None:
        """Stores how a job stands; should the disk not take it, it is tried again later and known until then."""
        try:
            await self.store(record)
        except StorageError as error:
            with log_fields(record.names):
                log.error("job %s cannot be stored now: %s", record.job_id, error.reason)  # noqa: TRY400 - no defect
            self._unsaved[record.job_id] = record
            return
        self._unsaved.pop(record.job_id, None)
        if record.state.ended:
            await self._forget_input(record)

    async def succeed(self, record: JobRecord, image: bytes) -> None:
        """Stores how a transfer ended, and its picture.

        Raises:
            StorageError, StorageFullError: neither is stored.
        """
        assert record.outcome is not None
        name = record.outcome.sha256
        async with self._lock(name):
            try:
                await asyncio.to_thread(self._results.put, image)
                await self._store.save(record)
            except StorageError:
                await self._remove(self._results, name)
                raise
        await self._forget_input(record)

    async def get(self, job_id: str) -> JobRecord | None:
        """The job with that id."""
        return self._unsaved.get(job_id) or await self._store.get(job_id)

    async def find(self, owner: str, request_id: str) -> JobRecord | None:
        """The owner's job with that request id."""
        record = await self._store.find(owner, request_id)
        return None if record is None else self._unsaved.get(record.job_id, record)

    async def page(
        self, owner: str, states: Collection[JobState], *, before: int | None, limit: int
    ) -> Sequence[JobRecord]:
        """The owner's jobs, newest first; see `JobStore.page`."""
        records = await self._store.page(owner, states, before=before, limit=limit)
        return [replace(self._unsaved.get(record.job_id, record), number=record.number) for record in records]

    async def check_result(self, outcome: Outcome) -> None:
        """Whether the picture of a transfer that succeeded is there and whole.

        Raises:
            ResultGoneError: it is not kept any more.
        """
        with _gone():
            await asyncio.to_thread(self._results.check, outcome.sha256)

    async def read_result(self, outcome: Outcome, offset: int, size: int) -> bytes:
        """That many bytes of a picture, which is never in memory as a whole: any number of readers may be slow.

        Raises:
            ResultGoneError: it is not kept any more.
        """
        with _gone():
            return await asyncio.to_thread(self._results.read, outcome.sha256, offset, size)

    async def log_of(self, record: JobRecord, *, after: int) -> EventLog:
        """The events that are still known of a job that has ended, for a reader who has had those up to `after`."""
        past = EventLog(lambda: record)
        past.publish(AcceptedEvent(record.job_id, record.request_id, 0, *record.size), at=record.created_at)
        outcome = record.outcome
        if outcome is None:
            past.skip_to(record.sequence)
            past.close(None if record.state is JobState.SUCCEEDED else EndedJobError(record.status))
            return past
        if after < record.sequence - 1:
            past.skip_to(outcome.sequence - 1)
            try:
                await self.check_result(outcome)
            except ResultGoneError as error:
                past.close(error)
                return past
            past.publish(StoredResultEvent(outcome), at=record.ended_at)
        past.skip_to(record.sequence - 1)
        past.publish(CompletedEvent(outcome.queued_seconds, outcome.run_seconds, outcome.stages), at=record.ended_at)
        past.close()
        return past

    async def keep_swept(self) -> None:
        """Removes what need not be kept any longer, again and again, and stores what could not be stored."""
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self._retention_seconds / 4))
            try:
                await self._sweep()
            except StorageError as error:
                log.error("cannot clean up: %s", error.reason)  # noqa: TRY400 - no defect, no traceback

    async def _sweep(self) -> None:
        for record in list(self._unsaved.values()):
            await self.save(record)
        expired = await self._store.expired(
            ended_before=time.time() - self._retention_seconds, result_bytes=self._retention_bytes
        )
        if not expired:
            return
        log.info("forgetting %d jobs that ended long ago or whose pictures are too many", len(expired))
        job_ids = [record.job_id for record in expired]
        # The pictures first: on a full disk, a database needs their room to forget anything.
        for name in {record.outcome.sha256 for record in expired if record.outcome is not None}:
            async with self._lock(name):
                await self._remove(self._results, name, besides=job_ids)
        await self._store.remove(job_ids)

    async def _forget_input(self, record: JobRecord) -> None:
        if record.payload:
            async with self._lock(record.payload):
                await self._remove(self._inputs, record.payload)

    async def _remove(self, files: FileStore, name: str, besides: Collection[str] = ()) -> None:
        """Removes a file unless some job besides these wants it; one that stays goes at the next start."""
        with suppress(StorageError):
            if name and not await self._store.wants(name, besides):
                await asyncio.to_thread(files.remove, name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


@contextmanager
def _gone() -> Iterator[None]:
    """A file that is not there, or not what it was.

    Raises:
        ResultGoneError: it is so.
    """
    try:
        yield
    except KeyError:
        raise ResultGoneError("the result of this job is not kept any more") from None
