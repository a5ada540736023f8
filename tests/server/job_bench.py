"""A job manager on a scripted executor, with an archive that a second one can take over."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from intarsia_server.jobs.admission import Limits
from intarsia_server.jobs.archive import Archive
from intarsia_server.jobs.events import JobEvent
from intarsia_server.jobs.folder import DataFolder
from intarsia_server.jobs.manager import JobManager
from intarsia_server.jobs.model import Job, Payload
from intarsia_server.jobs.observer import JobObserver
from intarsia_server.jobs.record import JobRecord, JobState
from scripted_executor import ScriptedExecutor, transfer_request
from server_process import LONG

SIZE = (96, 64)


class Bench:
    """A manager, its executor, and jobs known by their seeds.

    Args:
        path: of the data; None: nothing outlives the bench.
        slots: of the executor.
        capacity: of the queue.
        chunk_bytes: of pictures.
        observers: of jobs.
        retention: keyword arguments of the archive.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        slots: int = 1,
        capacity: int = 3,
        chunk_bytes: int = 1000,
        observers: Sequence[JobObserver] = (),
        **retention: Any,
    ) -> None:
        self.executor = ScriptedExecutor(slots)
        self.folder = DataFolder(path)
        self.archive = Archive(self.folder, **{"retention_seconds": 3600.0, "retention_bytes": 2**20, **retention})
        self.manager = JobManager(
            self.executor,
            self.archive,
            self.folder.checkpoints,
            limits=Limits(waiting=capacity),
            chunk_bytes=chunk_bytes,
            durable=self.folder.durable,
            revive=lambda data: transfer_request(int(data)),
            describe=lambda error: f"{type(error).__name__}: {error}".encode(),
            observers=observers,
        )

    async def start(self) -> None:
        await self.manager.recover()
        self.manager.start()
        await settle()

    def submit_now(self, seed: int, *, client: str = "", owner: str = "", stored: bool = True) -> Job:
        """A job that is yet to be stored."""
        with self.manager.admit(client) as place:
            return self.manager.submit(
                transfer_request(seed),
                place,
                request_id=f"request {seed}",
                size=SIZE,
                owner=owner,
                payload=payload_of(seed) if stored else None,
            )

    async def submit(self, seed: int, *, client: str = "", owner: str = "", stored: bool = True) -> Job:
        """A job that has been accepted, and has begun if it can."""
        job = self.submit_now(seed, client=client, owner=owner, stored=stored)
        await until(lambda: job.log.sequence > 0)
        await settle()
        return job

    async def find(self, seed: int, *, owner: str = "") -> Job | JobRecord | None:
        return await self.manager.find(owner, f"request {seed}", payload_of(seed))

    async def events_of(self, job: Job | JobRecord, after: int = 0) -> list[JobEvent]:
        """All events of a job that ends by itself."""
        events = self.manager.events(job, after=after, heartbeat=LONG)
        return [numbered.event async for numbered in events if numbered is not None]

    async def ended(self, job: Job) -> None:
        """Waits for a job's end to be stored."""
        await until(lambda: job not in self.manager.jobs)

    async def stop(self) -> None:
        """Lets all jobs finish."""
        self.executor.let_go(*range(1000))
        await self.manager.drain(2 * LONG)
        assert self.manager.running == self.manager.queued == 0
        await self.archive.close()
        self.folder.close()

    async def die(self) -> None:
        """Ends it as a killed process does: whatever has not been stored is lost. Its jobs' tasks are let go of."""
        for task in (*self.manager._runners, *self.manager._tasks):
            task.cancel()
        await asyncio.gather(*self.manager._runners, *self.manager._tasks, return_exceptions=True)
        await self.archive.close()
        self.folder.close()


def payload_of(seed: int) -> Payload:
    data = str(seed).encode()
    return Payload(data, hashlib.sha256(data).hexdigest())


def on_bench(scenario: Callable[[Bench], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        bench = Bench(**options)
        await bench.start()
        await asyncio.wait_for(scenario(bench), LONG)
        await asyncio.wait_for(bench.stop(), LONG)

    asyncio.run(run())


async def settle() -> None:
    """Lets everything happen that can happen without another thread."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


def state_of(job: Job | JobRecord | None) -> JobState | None:
    return None if job is None else job.state
