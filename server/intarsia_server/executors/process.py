"""One worker process as the front sees it: its connection, and the thread that reads it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import (
    ExecutorEvent,
    ExecutorInfo,
    ExecutorStartError,
    FinalEvent,
    WorkerDiedError,
    WorkerStatus,
)
from intarsia_server.executors.messages import Failed, Holding, Learned, Ready, RunCommand, WorkerConfig, WorkerMessage
from intarsia_server.logs import current_fields

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0


def _enter_worker(connection: Connection, cancelled_serial: ctypes.c_ulonglong, config: WorkerConfig) -> None:
    """Imports torch on the far side of the spawn: the front process must never load it."""
    from intarsia_server.executors.worker import run_worker

    run_worker(connection, cancelled_serial, config)


class WorkerProcess:
    """Runs requests in a process of its own, one at a time; it can be started again after it has died.

    Args:
        config: of the worker.
        on_exit: called in the event loop when the process has ended by itself, after it was ready.
    """

    def __init__(self, config: WorkerConfig, on_exit: Callable[[WorkerProcess], None]) -> None:
        self.config = config
        self._on_exit = on_exit
        self.info: ExecutorInfo | None = None
        self._spawn = multiprocessing.get_context("spawn")
        # Without a lock: a worker that is killed while it reads must not leave one held.
        self._cancelled_serial: ctypes.c_ulonglong = self._spawn.Value("Q", 0, lock=False)
        self._serial = 0
        self._starts = 0
        self._device_memory = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self._messages: asyncio.Queue[WorkerMessage | None] = asyncio.Queue()

    @property
    def alive(self) -> bool:
        """Whether the process is there to take a request, as far as the event loop has heard."""
        return self._connection is not None

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
        # Not in a thread: `stop` must never meet a process that is half started.
        self._process.start()
        self._starts += 1
        self._device_memory = 0
        theirs.close()
        arguments = (self._connection, asyncio.get_running_loop(), self._received)
        threading.Thread(target=_read, args=arguments, daemon=True, name="intarsia-reader").start()
        message = await self._messages.get()
        if isinstance(message, Ready):
            self.info = message.info
            return
        if isinstance(message, Failed):
            raise message.error
        raise ExecutorStartError("a worker process ended before it was ready; see the log above")

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None
    ) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one request; on return, or on any error but `WorkerDiedError`, the worker is idle."""
        assert self._connection is not None
        self._serial += 1
        watcher = asyncio.create_task(self._pass_on(cancel, self._serial))
        try:
            await asyncio.to_thread(self._send, RunCommand(self._serial, request, checkpoint, current_fields()))
            while True:
                message = await self._messages.get()
                if message is None:
                    raise WorkerDiedError("the worker process died")
                if isinstance(message, Failed):
                    raise message.error
                assert not isinstance(message, Ready)
                if isinstance(message, Learned):
                    self._learn(message)
                    continue
                if isinstance(message, Holding):
                    self._device_memory = message.device_memory
                    continue
                yield message
                if isinstance(message, FinalEvent):
                    return
        finally:
            watcher.cancel()

    def _learn(self, learned: Learned) -> None:
        """In the event loop, where it is read too."""
        assert self.info is not None
        self.info = replace(self.info, speeds={**self.info.speeds, learned.precision: learned.speed})

    async def _pass_on(self, cancel: asyncio.Event, serial: int) -> None:
        await cancel.wait()
        self._cancelled_serial.value = serial

    def _send(self, command: RunCommand | None) -> None:
        assert self._connection is not None
        try:
            self._connection.send(command)
        except OSError:
            log.warning("worker process for %s does not listen any more", self.config.device)

    def _received(self, connection: Connection, message: WorkerMessage | None) -> None:
        if connection is not self._connection:
            return  # the end of a process that another has replaced
        self._messages.put_nowait(message)
        if message is None:
            self._connection = None
            connection.close()
            if self.info is not None:
                self._on_exit(self)

    def status(self) -> WorkerStatus:
        """As it is now; may be called in any thread."""
        pid = self._process.pid if self._process is not None and self.alive else None
        return WorkerStatus(self.config.device, pid, max(0, self._starts - 1), self._device_memory)

    def stop(self) -> None:
        """Asks the process to end, which it does within one step; kills it when it does not, or is still loading."""
        self._cancelled_serial.value = self._serial
        if self._process is None:
            return
        if self.info is not None and self._connection is not None:
            self._send(None)
            self._process.join(STOP_SECONDS)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _read(
    connection: Connection,
    loop: asyncio.AbstractEventLoop,
    received: Callable[[Connection, WorkerMessage | None], None],
) -> None:
    """Passes messages to the event loop, and None once the process is gone."""
    message: WorkerMessage | None = None
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            message = None
        try:
            loop.call_soon_threadsafe(received, connection, message)
        except RuntimeError:
            return  # the loop has closed: the server is gone
        if message is None:
            return
