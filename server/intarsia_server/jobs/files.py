"""Files that are named by what is in them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from intarsia_server.jobs.storage import storage_errors


class FileStore:
    """Files in one folder, each under the SHA-256 of its content in hexadecimal: complete, or not there at all.

    Every method blocks; call them in a thread.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: dict[str, tuple[int, int]] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Stores data and returns its name; it is on the disk when this returns. Without effect if it is there.

        Raises:
            StorageError, StorageFullError: it cannot be written; nothing of it is left.
        """
        name = hashlib.sha256(data).hexdigest()
        if self.size(name) == len(data):
            return name
        with storage_errors("a file"):
            handle, temporary = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                self.adopt(Path(temporary), name)
            except BaseException:
                with suppress(FileNotFoundError):
                    Path(temporary).unlink()
                raise
        return name

    def adopt(self, path: Path, name: str) -> None:
        """Takes over a complete file of the same file system whose content has that SHA-256.

        Raises:
            StorageError, StorageFullError: it cannot be moved.
        """
        with storage_errors("a file"):
            path.rename(self._folder / name)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def get(self, name: str) -> bytes:
        """The file's content.

        Raises:
            KeyError: it is not there, or is not what was stored.
        """
        try:
            data = (self._folder / name).read_bytes()
        except OSError as error:
            raise KeyError(name) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise KeyError(name)
        return data

    def check(self, name: str) -> None:
        """Whether it is there and whole; reads it, a piece at a time, unless it has not changed since the last time.

        Raises:
            KeyError: it is not there, or is not what was stored.
        """
        try:
            with (self._folder / name).open("rb") as file:
                status = os.fstat(file.fileno())
                stamp = (status.st_size, status.st_mtime_ns)
                if self._whole.get(name) == stamp:
                    return
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise KeyError(name) from error
        if digest != name:
            raise KeyError(name)
        self._whole[name] = stamp

    def read(self, name: str, offset: int, size: int) -> bytes:
        """A piece of a file's content, of that many bytes; see `check`.

        Raises:
            KeyError: it is not there, or is shorter.
        """
        try:
            with (self._folder / name).open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise KeyError(name) from error
        if len(data) != size:
            raise KeyError(name)
        return data

    def size(self, name: str) -> int | None:
        """In bytes; None: it is not there."""
        try:
            return (self._folder / name).stat().st_size
        except OSError:
            return None

    def remove(self, name: str) -> None:
        """Without effect if it is not there."""
        self._whole.pop(name, None)
        with suppress(OSError):
            (self._folder / name).unlink()

    def keep_only(self, names: Collection[str]) -> None:
        """Removes all others, and what a killed server had not finished writing."""
        for path in self._folder.iterdir():
            if path.name not in names:
                self.remove(path.name)
