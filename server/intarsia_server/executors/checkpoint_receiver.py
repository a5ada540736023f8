"""A checkpoint that comes in parts from another computer becomes a file. No torch here: the front writes it."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from intarsia_server.executors.checkpoint_files import part_of, private, sync_folder

log = logging.getLogger(__name__)


class CheckpointReceiver:
    """Writes the checkpoints of one run, each whole or not at all; what goes wrong is logged once.

    Args:
        path: of the file; None: nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._is_failing = False
        self._closed = False
        self._lock = threading.Lock()
        """Held by whoever touches the files by their names."""

    def take(self, data: bytes) -> None:
        """Takes the next bytes; none: the checkpoint is whole, and takes the place of the one before. Blocks."""
        if self._path is None or self._closed:
            return
        try:
            if self._file is None:
                self._file = open(part_of(self._path), "wb", opener=private)  # noqa: SIM115  # closed when it is whole
            self._file.write(data)
            if not data:
                self._finish(self._path, self._file)
        except (OSError, ValueError) as error:  # the latter: closed meanwhile
            if not self._is_failing and not self._closed:
                reason = error.strerror if isinstance(error, OSError) else error
                log.warning("a checkpoint cannot be written, the job goes on without: %s", reason)
            self._is_failing = True

    def close(self) -> None:
        """From now on the files are somebody else's; nobody waits for a disk that is busy."""
        with self._lock:
            self._closed = True
            if self._path is not None:
                with suppress(OSError):
                    part_of(self._path).unlink()

    def _finish(self, path: Path, file: BinaryIO) -> None:
        self._file = None
        with file:
            file.flush()
            os.fsync(file.fileno())
        with self._lock:
            if self._closed:
                return
            part_of(path).replace(path)
        sync_folder(path.parent)
        self._is_failing = False
