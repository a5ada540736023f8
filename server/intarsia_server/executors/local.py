"""The local executor: one spawned worker process per device."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import (
    ExecutionCancelledError,
    Executor,
    ExecutorEvent,
    ExecutorInfo,
    ExecutorStartError,
    WorkerStatus,
)
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.process import WorkerProcess

log = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until a worker that did not start is started again: twice as many each time."""


class LocalExecutor(Executor):
    """One worker process per configuration; a process that dies, busy or idle, is replaced."""

    def __init__(self, configs: Sequence[WorkerConfig]) -> None:
        self.slots = len(configs)
        self._workers = [WorkerProcess(config, self._on_exit) for config in configs]
        self._idle: list[WorkerProcess] = []
        self._changed = asyncio.Event()
        self._started = asyncio.Event()
        self._on_ready: Callable[[bool], None]
        self._replacements: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(self, on_ready: Callable[[bool], None]) -> None:
        """Spawns every worker and waits until each is ready."""
        self._on_ready = on_ready
        await asyncio.gather(*(worker.start() for worker in self._workers))
        self._idle = list(self._workers)
        self._changed.set()
        self._started.set()
        on_ready(True)

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None = None
    ) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one request on the next idle worker."""
        worker = await self._next_idle(cancel)
        try:
            async for event in worker.run(request, cancel, checkpoint):
                yield event
        finally:
            if worker.alive:
                self._idle.append(worker)
                self._changed.set()
            else:
                self._begin_replacement(worker)

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

    async def _next_idle(self, cancel: asyncio.Event) -> WorkerProcess:
        while True:
            if cancel.is_set():
                raise ExecutionCancelledError
            if self._idle:
                return self._idle.pop(0)
            self._changed.clear()
            waits = [asyncio.create_task(event.wait()) for event in (cancel, self._changed)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

    def _on_exit(self, worker: WorkerProcess) -> None:
        """A busy worker's death is its job's to notice; an idle one's is noticed here, before a job is given to it."""
        if worker in self._idle:
            self._idle.remove(worker)
            self._begin_replacement(worker)

    def _begin_replacement(self, worker: WorkerProcess) -> None:
        if self._stopping:
            return
        log.error("worker process for %s died; starting another", worker.config.device)
        self._on_ready(any(other.alive for other in self._workers))
        task = asyncio.create_task(self._replace(worker))
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replace(self, worker: WorkerProcess) -> None:
        delay = FIRST_RETRY
        while not await self._starts(worker):
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)
        self._idle.append(worker)
        self._on_ready(True)
        self._changed.set()

    async def _starts(self, worker: WorkerProcess) -> bool:
        """Whether it does this time; killed meanwhile or without memory, it may the next time."""
        try:
            await worker.start()
        except (ExecutorStartError, OSError) as error:
            log.error("worker process for %s did not start again: %s", worker.config.device, error)  # noqa: TRY400
            return False
        return True
