"""What executors have in common: workers of which each runs one request at a time, and is replaced when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import (
    ExecutionCancelledError,
    Executor,
    ExecutorEvent,
    ExecutorInfo,
    ExecutorStartError,
    WorkerStatus,
)
from intarsia_server.executors.handle import WorkerHandle

log = logging.getLogger(__name__)

OnExit = Callable[[WorkerHandle], None]

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a worker that did not start is started again: twice as many each time."""


@dataclass(eq=False)
class _Waiting:
    """A request for which no worker has been found yet."""

    cost: float
    worker: asyncio.Future[WorkerHandle]


class PoolExecutor(Executor):
    """Gives each request to an idle worker; one that dies, busy or idle, is replaced.

    Args:
        make: of each worker; it is given what to call when the worker has ended by itself.
    """

    def __init__(self, make: Sequence[Callable[[OnExit], WorkerHandle]]) -> None:
        self.slots = len(make)
        self._workers = [make_one(self._on_exit) for make_one in make]
        self._idle: list[WorkerHandle] = []
        self._waiting: list[_Waiting] = []
        self._started = asyncio.Event()
        self._on_ready: Callable[[bool], None]
        self._replacements: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self, on_ready: Callable[[bool], None]) -> None:
        """Starts every worker and waits until each is ready."""
        self._on_ready = on_ready
        await asyncio.gather(*(worker.start() for worker in self._workers))
        self._idle = list(self._workers)
        self._match()
        self._started.set()
        on_ready(True)

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None = None, *, cost: float = 0.0
    ) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one request on an idle worker, as soon as there is one."""
        worker = await self._next_idle(cancel, cost)
        try:
            async with aclosing(worker.run(request, cancel, checkpoint)) as events:
                async for event in events:
                    yield event
        finally:
            self._give_back(worker)

    def info(self) -> ExecutorInfo | None:
        """Devices of all workers; everything else is the first one's."""
        infos = [worker.info for worker in self._workers if worker.info is not None]
        if not infos:
            return None
        devices = tuple(device for info in infos for device in info.devices)
        return replace(infos[0], devices=devices)

    async def started(self) -> ExecutorInfo:
        """Waits for the first start; a worker that is replaced later is still known."""
        await self._started.wait()
        info = self.info()
        assert info is not None
        return info

    def workers(self) -> tuple[WorkerStatus, ...]:
        """One a configuration."""
        return tuple(worker.status() for worker in self._workers)

    async def stop(self) -> None:
        """Ends every worker, by force where it does not end by itself."""
        self._stopping = True
        for task in self._replacements:
            task.cancel()
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))

    async def _next_idle(self, cancel: asyncio.Event, cost: float) -> WorkerHandle:
        """Waits for one.

        Raises:
            ExecutionCancelledError: `cancel` was set.
        """
        while not (worker := await self._given(cancel, cost)).alive:
            self._begin_replacement(worker)  # it died as it was given
        return worker

    async def _given(self, cancel: asyncio.Event, cost: float) -> WorkerHandle:
        if cancel.is_set():
            raise ExecutionCancelledError
        loop = asyncio.get_running_loop()
        waiting = _Waiting(cost, loop.create_future())
        self._waiting.append(waiting)
        # Not at once: of requests that come together, the one that costs most is to have the fastest worker.
        loop.call_soon(self._match)
        cancelled = asyncio.create_task(cancel.wait())
        try:
            either: tuple[asyncio.Future[Any], ...] = (waiting.worker, cancelled)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not cancel.is_set():
                return waiting.worker.result()
        except asyncio.CancelledError:
            self._leave(waiting)
            raise
        finally:
            cancelled.cancel()
        self._leave(waiting)
        raise ExecutionCancelledError

    def _match(self) -> None:
        """Gives idle workers to those who wait: the fastest to what costs most."""
        while self._idle and self._waiting:
            first = max(self._waiting, key=lambda waiting: waiting.cost)
            worker = min(self._idle, key=lambda worker: worker.step_seconds)
            self._waiting.remove(first)
            self._idle.remove(worker)
            first.worker.set_result(worker)

    def _leave(self, waiting: _Waiting) -> None:
        """Whoever waited does not want a worker any more."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        else:
            self._give_back(waiting.worker.result())

    def _give_back(self, worker: WorkerHandle) -> None:
        if worker.alive:
            self._idle.append(worker)
            self._match()
        else:
            self._begin_replacement(worker)

    def _on_exit(self, worker: WorkerHandle) -> None:
        """A busy worker's death is its job's to notice; an idle one's is noticed here, before a job is given to it."""
        if worker in self._idle:
            self._idle.remove(worker)
            self._begin_replacement(worker)

    def _begin_replacement(self, worker: WorkerHandle) -> None:
        if self._stopping:
            return
        log.error("worker process for %s died; starting another", worker.config.device)
        self._on_ready(any(other.alive for other in self._workers))
        task = asyncio.create_task(self._replace(worker))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replace(self, worker: WorkerHandle) -> None:
        delay = FIRST_RETRY
        while not await self._starts(worker):
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)
        self._on_ready(True)
        self._give_back(worker)

    async def _starts(self, worker: WorkerHandle) -> bool:
        """Whether it does this time; killed meanwhile or without memory, it may the next time."""
        try:
            await worker.start()
        except (ExecutorStartError, OSError) as error:
            log.error("worker process for %s did not start again: %s", worker.config.device, error)  # noqa: TRY400
            return False
        return True
