"""When a job's checkpoints are written, and how a file stays whole whatever happens meanwhile."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from intarsia_server.engine.cancel import Cancelled
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.executors import checkpoint_format
from intarsia_server.executors.checkpoint_files import part_of, private, sync_folder

log = logging.getLogger(__name__)

SHARE = 0.05
"""Of a job's time that writing checkpoints may take, at most."""


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """What was written last; None when there is nothing, and None with a line in the log when it is of no use.

    Args:
        path: of the file.
        fingerprint: that it must have been written with.
    """
    try:
        with path.open("rb") as file:
            return checkpoint_format.read(file, fingerprint)
    except FileNotFoundError:
        return None
    except checkpoint_format.UnusableCheckpointError as error:
        reason = str(error)
    except OSError as error:
        reason = _reason(error)
    log.warning("the checkpoint is not used, and the job starts anew: %s", reason)
    return None


class CheckpointWriter:
    """Writes one job's checkpoints, each in the place of the one before; a context, within which it may do so.

    The file's contents are handed to the system at once, so that the next step may change the tensors, and without a
    copy of them in this process's memory. Only then, while further steps run, a thread waits for the disk.

    Args:
        path: of the file; None: nothing is written.
        fingerprint: of all that the result depends on.
        seconds: from one to the next, at least; longer where writing would take more than `SHARE` of the time.
            0: nothing is written.
        on_written: called with the path, in the thread that waits for the disk, when a checkpoint is there; the next
            one is not taken before it returns, and the time that it takes counts as the writing's.
    """

    def __init__(
        self, path: Path | None, fingerprint: str, seconds: float, on_written: Callable[[Path], None] | None = None
    ) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self._seconds = seconds
        self._on_written = on_written
        self._due = math.inf
        self._failing = False
        self._closed = False
        self._lock = threading.Lock()
        """Held by whoever touches the files by their names."""

    def __enter__(self) -> Self:
        if self._path is not None and self._seconds > 0:
            self._due = time.monotonic() + self._seconds
        self._discard()  # of a worker that died
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """From now on the files are somebody else's; nobody waits for a disk that is busy."""
        with self._lock:
            self._closed = True
            self._discard()

    def offer(self, take: Callable[[], Checkpoint], cancelled: Cancelled) -> None:
        """Takes a checkpoint and begins to write it, if it is time for one. What goes wrong is logged.

        Raises:
            CancelledError: `cancelled` said so.
        """
        began = time.monotonic()
        if began < self._due or self._path is None:
            return
        self._due = math.inf
        file: BinaryIO | None = None
        try:
            file = open(part_of(self._path), "w+b", opener=private)  # noqa: SIM115  # closed by the thread
            checkpoint_format.write(file, take(), self._fingerprint, cancelled)
            file.flush()
        except OSError as error:
            self._give_up(file, error)
            self._plan(began)
        except BaseException:
            if file is not None:
                file.close()
            raise
        else:
            # With this thread's context: what it logs is about the same job.
            finish = partial(copy_context().run, self._finish, self._path, file, began)
            threading.Thread(target=finish, name="intarsia-checkpoint").start()

    def _finish(self, path: Path, file: BinaryIO, began: float) -> None:
        try:
            checkpoint_format.seal(file)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            with self._lock:
                if self._closed:
                    return
                part_of(path).replace(path)
            sync_folder(path.parent)
            self._failing = False
            if self._on_written is not None:
                self._on_written(path)
        except OSError as error:
            self._give_up(file, error)
        finally:
            self._plan(began)

    def _plan(self, began: float) -> None:
        self._due = began + max(self._seconds, (time.monotonic() - began) / SHARE)

    def _give_up(self, file: BinaryIO | None, error: OSError) -> None:
        """The checkpoint before stays what it is; the log says so once for failures in a row."""
        if file is not None:
            with suppress(OSError):  # what it still holds cannot be written either
                file.close()
        with self._lock:
            if self._closed:
                return
            self._discard()
        if not self._failing:
            log.warning("a checkpoint cannot be written, the job goes on without: %s", _reason(error))
        self._failing = True

    def _discard(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                part_of(self._path).unlink()


def _reason(error: OSError) -> str:
    """In words, without a path."""
    return error.strerror or type(error).__name__
