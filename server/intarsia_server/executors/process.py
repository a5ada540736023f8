"""One worker process as the front sees it: its connection, and the thread that reads it."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeAlias

from intarsia_server.engine.device_info import resident_memory
from intarsia_server.executors.base import WorkerStatus
from intarsia_server.executors.handle import WorkerHandle
from intarsia_server.executors.messages import RunCommand, WorkerConfig, WorkerMessage

log = logging.getLogger(__name__)

STOP_SECONDS = 5.0

WorkerMain: TypeAlias = Callable[[Connection, "ctypes.c_ulonglong", WorkerConfig], None]
"""What a worker process runs, such as `process_main.run_worker`; picklable."""


def enter_worker(connection: Connection, cancelled_serial: ctypes.c_ulonglong, config: WorkerConfig) -> None:
    """Imports torch on the far side of the spawn: the front process must never load it."""
    from intarsia_server.executors.process_main import run_worker

    run_worker(connection, cancelled_serial, config)


class WorkerProcess(WorkerHandle):
    """A worker in a process of its own on this computer.

    Args:
        config: of the worker.
        on_exit: as of `WorkerHandle`.
        main: what the process runs.
    """

    def __init__(
        self, config: WorkerConfig, on_exit: Callable[[WorkerHandle], None], main: WorkerMain = enter_worker
    ) -> None:
        super().__init__(config, on_exit)
        self._main = main
        self._spawn = multiprocessing.get_context("spawn")
        # Without a lock: a worker that is killed while it reads must not leave one held.
        self._cancelled_serial: ctypes.c_ulonglong = self._spawn.Value("Q", 0, lock=False)
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is there to take a request, as far as the event loop has heard."""
        return self._connection is not None

    async def _open(self) -> None:
        self._connection, theirs = self._spawn.Pipe()
        self._process = self._spawn.Process(
            target=self._main,
            args=(theirs, self._cancelled_serial, self.config),
            daemon=True,
            name="intarsia-worker",
        )
        # Not in a thread: `stop` must never meet a process that is half started.
        self._process.start()
        theirs.close()
        arguments = (self._connection, asyncio.get_running_loop(), self._received)
        threading.Thread(target=_read, args=arguments, daemon=True, name="intarsia-reader").start()

    async def _send(self, command: RunCommand) -> None:
        await asyncio.to_thread(self._put, command)

    def _put(self, command: RunCommand | None) -> None:
        connection = self._connection
        try:
            if connection is not None:
                connection.send(command)
        except OSError:
            log.warning("worker process for %s does not listen any more", self.config.device)

    def _cancel(self, serial: int) -> None:
        self._cancelled_serial.value = serial

    def _received(self, connection: Connection, message: WorkerMessage | None) -> None:
        if connection is not self._connection:
            return  # the end of a process that another has replaced
        if message is not None:
            self._messages.put_nowait(message)
            return
        self._connection = None
        connection.close()
        self._gone()

    def status(self) -> WorkerStatus:
        """As it is now; may be called in any thread."""
        pid = self._process.pid if self._process is not None and self.alive else None
        memory = 0 if pid is None else resident_memory(pid)
        return WorkerStatus(self.config.device, pid, self.restarts, self._device_memory, memory)

    def stop(self) -> None:
        """Asks the process to end, which it does within one step; kills it when it does not, or is still loading."""
        self._cancel(self._serial)
        if self._process is None:
            return
        if self.info is not None and self._connection is not None:
            self._put(None)
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
