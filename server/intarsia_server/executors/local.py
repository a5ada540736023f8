"""The local executor: one spawned worker process per device."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from multiprocessing.connection import Connection

from intarsia_server.engine.request import TransferRequest
from intarsia_server.executors.base import (
    Executor,
    ExecutorEvent,
    ExecutorInfo,
    ExecutorStartError,
    ResultEvent,
    WorkerDiedError,
)
from intarsia_server.executors.messages import Failed, Ready, RunCommand, WorkerConfig, WorkerMessage

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0


def _enter_worker(connection: Connection, cancelled_serial: ctypes.c_ulonglong, config: WorkerConfig) -> None:
    """Imports torch on the far side of the spawn: the front process must never load it."""
    from intarsia_server.executors.worker import run_worker

    run_worker(connection, cancelled_serial, config)


class LocalExecutor(Executor):
    """One worker process per configuration; a process that dies is replaced."""

    def __init__(self, configs: Sequence[WorkerConfig]) -> None:
        self.slots = len(configs)
        self._workers = [_WorkerProcess(config) for config in configs]
        # None says that no worker is left, to everyone who waits.
        self._free: asyncio.Queue[_WorkerProcess | None] = asyncio.Queue()
        self._on_ready: Callable[[bool], None]
        self._restarts: set[asyncio.Task[None]] = set()

    async def start(self, on_ready: Callable[[bool], None]) -> None:
        """Spawns every worker and waits until each is ready."""
        self._on_ready = on_ready
        await asyncio.gather(*(worker.start() for worker in self._workers))
        for worker in self._workers:
            self._free.put_nowait(worker)
        on_ready(True)

    async def run(self, request: TransferRequest, cancel: asyncio.Event) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one transfer on the next free worker."""
        worker = await self._free.get()
        if worker is None:
            self._free.put_nowait(None)
            raise WorkerDiedError("no worker process is left")
        try:
            async for event in worker.run(request, cancel):
                yield event
        finally:
            if worker.alive:
                self._free.put_nowait(worker)
            else:
                task = asyncio.create_task(self._replace(worker))
                self._restarts.add(task)
                task.add_done_callback(self._restarts.discard)

    async def _replace(self, worker: _WorkerProcess) -> None:
        self._on_ready(any(other.alive for other in self._workers))
        log.error("worker process for %s died; starting another", worker.config.device)
        try:
            await worker.start()
        except ExecutorStartError:
            log.exception("worker process for %s cannot be started again", worker.config.device)
            self.slots -= 1
            if self.slots == 0:
                self._free.put_nowait(None)
            return
        self._free.put_nowait(worker)
        self._on_ready(True)

    def info(self) -> ExecutorInfo | None:
        """Devices of all workers; ops and precision are the first one's."""
        infos = [worker.info for worker in self._workers if worker.info is not None]
        if not infos:
            return None
        devices = tuple(device for info in infos for device in info.devices)
        return ExecutorInfo(devices, infos[0].ops, infos[0].default_precision)

    async def stop(self) -> None:
        """Closes every worker's connection, and kills what does not end by itself."""
        for task in self._restarts:
            task.cancel()
        await asyncio.gather(*(asyncio.to_thread(worker.stop) for worker in self._workers))


class _WorkerProcess:
    """One process, its connection, and the thread that reads it."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.info: ExecutorInfo | None = None
        self._spawn = multiprocessing.get_context("spawn")
        # Without a lock: a worker that is killed while it reads must not leave one held.
        self._cancelled_serial: ctypes.c_ulonglong = self._spawn.Value("Q", 0, lock=False)
        self._serial = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._messages: asyncio.Queue[WorkerMessage | None] = asyncio.Queue()

    @property
    def alive(self) -> bool:
        """Whether the process runs and its connection is open."""
        return self._process is not None and self._process.is_alive() and self._connection is not None

    async def start(self) -> None:
        """Spawns the process and waits for its encoder."""
        self._connection, theirs = self._spawn.Pipe()
        self._messages = asyncio.Queue()
        self._process = self._spawn.Process(
            target=_enter_worker,
            args=(theirs, self._cancelled_serial, self.config),
            daemon=True,
            name="intarsia-worker",
        )
        await asyncio.to_thread(self._process.start)
        theirs.close()
        arguments = (self._connection, self._messages, asyncio.get_running_loop())
        threading.Thread(target=_read, args=arguments, daemon=True, name="intarsia-reader").start()
        message = await self._messages.get()
        if isinstance(message, Ready):
            self.info = message.info
            return
        self._close()
        if isinstance(message, Failed):
            raise message.error
        raise ExecutorStartError("a worker process ended before it was ready; see the log above")

    async def run(self, request: TransferRequest, cancel: asyncio.Event) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one transfer; on return, or on any error but `WorkerDiedError`, the worker is idle."""
        assert self._connection is not None
        self._serial += 1
        watcher = asyncio.create_task(self._pass_on(cancel, self._serial))
        try:
            await asyncio.to_thread(self._send, RunCommand(self._serial, request))
            while True:
                message = await self._messages.get()
                if message is None:
                    self._close()
                    raise WorkerDiedError("the worker process died")
                if isinstance(message, Failed):
                    raise message.error
                assert not isinstance(message, Ready)
                yield message
                if isinstance(message, ResultEvent):
                    return
        finally:
            watcher.cancel()

    async def _pass_on(self, cancel: asyncio.Event, serial: int) -> None:
        await cancel.wait()
        self._cancelled_serial.value = serial

    def _send(self, command: RunCommand | None) -> None:
        assert self._connection is not None
        try:
            self._connection.send(command)
        except OSError:
            log.warning("worker process for %s does not listen any more", self.config.device)

    def _close(self) -> None:
        """Lets go of a process that has ended."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def stop(self) -> None:
        """Asks the process to end, which it does within one step; kills it when it does not, or is still loading."""
        self._cancelled_serial.value = self._serial
        if self._process is not None and self._connection is not None:
            if self.info is not None:
                self._send(None)
                self._process.join(STOP_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            self._close()


def _read(
    connection: Connection, messages: asyncio.Queue[WorkerMessage | None], loop: asyncio.AbstractEventLoop
) -> None:
    """Passes messages to the event loop, and None once the process is gone."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = None
        try:
            loop.call_soon_threadsafe(messages.put_nowait, message)
        except RuntimeError:
            return  # the loop has closed: the server is gone
        if message is None:
            return
