"""The folder that a server keeps everything in, which is that server's alone."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LOCK = "lock"
_TEMPORARY = "intarsia-data-"


class DataFolderError(RuntimeError):
    """The folder cannot be used; the message says why."""


@dataclass(frozen=True)
class Stored:
    """What a data folder holds at one moment.

    Attributes:
        sizes: bytes of the files, by what they are.
        checkpoints: when each was written, in seconds since the epoch, by its job's id.
        free: bytes that the file system has left.
    """

    sizes: Mapping[str, int]
    checkpoints: Mapping[str, float]
    free: int


class DataFolder:
    """One folder: the lock, the database, inputs, results, checkpoints and uploads.

    Args:
        path: made if it is not there. None: a temporary one, which goes when it is closed.

    Raises:
        DataFolderError: another server uses it, or it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.durable = path is not None
        try:
            self.path, self._lock = _temporary_folder() if path is None else _locked_folder(path.absolute())
            self.checkpoints.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DataFolderError(f"the data directory cannot be used: {error}") from error

    @property
    def database(self) -> Path:
        """SQLite's file."""
        return self.path / "jobs.sqlite3"

    @property
    def inputs(self) -> Path:
        """Requests of jobs that have not ended."""
        return self.path / "inputs"

    @property
    def results(self) -> Path:
        """Pictures of jobs that succeeded."""
        return self.path / "results"

    @property
    def checkpoints(self) -> Path:
        """One file a job that runs, or that is to go on."""
        return self.path / "checkpoints"

    @property
    def uploads(self) -> Path:
        """Pictures that came ahead of requests."""
        return self.path / "uploads"

    def stored(self) -> Stored:
        """Looks at all files, which may change meanwhile; blocks, and may be called in any thread."""
        sizes = dict.fromkeys(("records", "inputs", "results", "checkpoints", "uploads"), 0)
        checkpoints: dict[str, float] = {}
        for root, _, names in os.walk(self.path):
            place = Path(root).relative_to(self.path).parts
            for name in names:
                with suppress(FileNotFoundError):
                    file = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118 - there may be thousands
                    sizes[place[0] if place else "records"] += file.st_size
                    if place == (self.checkpoints.name,) and "." not in name:
                        checkpoints[name] = file.st_mtime
        return Stored(sizes, checkpoints, shutil.disk_usage(self.path).free)

    def close(self) -> None:
        """Lets another server have it; a temporary one is removed."""
        if not self.durable:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _locked_folder(path: Path) -> tuple[Path, int]:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # The kernel lets go of it however the process ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DataFolderError("the data directory is in use by another server") from None
    return path, lock


def _temporary_folder() -> tuple[Path, int]:
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{_TEMPORARY}*"):
        _remove_if_orphaned(left)
    # Named only once it is locked, so that no other server takes it for an orphan.
    fresh, lock = _locked_folder(Path(tempfile.mkdtemp(prefix="intarsia-new-", dir=parent)))
    named = parent / fresh.name.replace("intarsia-new-", _TEMPORARY)
    return fresh.rename(named), lock


def _remove_if_orphaned(folder: Path) -> None:
    """Removes what a killed server of this user has left: there are pictures in it."""
    with suppress(OSError, DataFolderError):
        if folder.stat().st_uid == os.getuid() and (folder / _LOCK).exists():
            _, lock = _locked_folder(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
