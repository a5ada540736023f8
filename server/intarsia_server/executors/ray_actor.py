"""The actor that works on a device of a Ray cluster. No torch at import: the front makes a remote class of it."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia_server.engine.device_info import resident_memory
from intarsia_server.executors.base import ExecutorStartError
from intarsia_server.executors.messages import Failed, Ready, RunCommand, WorkerConfig
from intarsia_server.executors.ray_messages import CheckpointPart, LogLine, RayMessage, Told
from intarsia_server.logs import log_fields, set_up_logs

if TYPE_CHECKING:
    from intarsia_server.executors.ray_helper import Helpers
    from intarsia_server.executors.worker import Worker

WAIT_SECONDS = 5.0
"""That a call for messages waits for the first one."""

LEASE_SECONDS = 60
"""Without such a call, after which the front is taken to be gone for good."""

AT_ONCE = 64
"""Messages of one answer."""

PART_BYTES = 4 * 2**20
PARTS_AHEAD = 2
"""Of a checkpoint, that wait for the front: the actor's memory must not grow by all of it."""


class WorkerActor:
    """Runs requests for a front that asks it again and again what there is to tell.

    A front that asks no more has died or cannot reach it: the actor then ends, so that its device is free again.

    Args:
        config: of the worker.
        folder: in which to make one for checkpoints; None: where temporary files lie.
        helpers: number of actors that it makes, which see some of the tiles of its large pictures.
        resources: of each of these, as options of an actor.
    """

    def __init__(self, config: WorkerConfig, folder: str | None, helpers: int, resources: Mapping[str, float]) -> None:
        self._config = config
        self._helpers = helpers
        self._resources = resources
        self._worker: Worker
        self._outbox: queue.SimpleQueue[RayMessage] = queue.SimpleQueue()
        self._room = threading.Semaphore(PARTS_AHEAD)
        self._cancelled_serial = 0
        self._ended_serial = 0
        self._unasked_seconds = 0
        self._folder = Path(tempfile.mkdtemp(prefix="intarsia-actor-", dir=folder))
        threading.Thread(target=self._end_unasked, daemon=True, name="intarsia-lease").start()

    def start(self) -> None:
        """Loads the encoder, and waits for the helpers; `Ready` or `Failed` tells how that went."""
        # Imports torch, which the front must never load.
        from intarsia_server.executors.worker import start_worker

        set_up_logs("worker", level=self._config.log_level, log_format=self._config.log_format, write=self._write_log)
        try:
            helpers = self._start_helpers()
            self._worker = start_worker(self._config)
            if helpers is not None:
                helpers.wait()
                self._worker.gather = helpers.gather
        except ExecutorStartError as error:
            self._outbox.put(Failed(error))
        else:
            self._outbox.put(Ready(self._worker.info))

    def take_checkpoint(self, serial: int, data: bytes) -> None:
        """Takes the next bytes of the checkpoint that a request, to be run next, shall go on from."""
        with self._path(serial).open("ab") as file:
            file.write(data)

    def run(self, command: RunCommand) -> None:
        """Runs one request; its checkpoint is in the actor's own folder."""
        path = None if command.checkpoint is None else self._path(command.serial)
        try:
            with log_fields(command.log_fields):
                self._worker.run(
                    replace(command, checkpoint=path),
                    lambda: self._cancelled_serial >= command.serial,
                    self._outbox.put,
                    lambda written: self._send_checkpoint(command.serial, written),
                )
        finally:
            self._ended_serial = command.serial
            if path is not None:
                path.unlink(missing_ok=True)

    def told(self) -> Told:
        """What there is to tell; waits for it, but not for ever."""
        self._unasked_seconds = 0
        messages: list[RayMessage] = []
        try:
            messages.append(self._outbox.get(timeout=WAIT_SECONDS))
            while len(messages) < AT_ONCE:
                messages.append(self._outbox.get_nowait())
        except queue.Empty:
            pass
        for message in messages:
            if isinstance(message, CheckpointPart):
                self._room.release()
        return Told(tuple(messages), os.getpid(), resident_memory("self"))

    def cancel(self, serial: int) -> None:
        """Requests up to this one are to stop, within one step."""
        self._cancelled_serial = max(self._cancelled_serial, serial)

    def end(self) -> None:
        """Ends the process, and leaves nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)

    def _start_helpers(self) -> Helpers | None:
        """Each needs room in the cluster; a job that loses one goes on from its checkpoint, as with a lost worker."""
        if self._helpers == 0:
            return None
        from intarsia_server.executors.ray_helper import Helpers

        return Helpers(self._config, self._helpers, self._resources, self.end)

    def _path(self, serial: int) -> Path:
        return self._folder / str(serial)

    def _send_checkpoint(self, serial: int, path: Path) -> None:
        """Sends what has been written, in the writer's thread, as fast as the front takes it."""
        with path.open("rb") as file:
            data = b" "
            while data and self._ended_serial < serial:
                data = file.read(PART_BYTES)
                self._room.acquire()
                self._outbox.put(CheckpointPart(serial, data))

    def _write_log(self, text: str) -> None:
        self._outbox.put(LogLine(text))

    def _end_unasked(self) -> None:
        """Counts, and does not look at a clock: while this computer sleeps the front may sleep, too."""
        while self._unasked_seconds < LEASE_SECONDS:
            time.sleep(1)
            self._unasked_seconds += 1
        self.end()
