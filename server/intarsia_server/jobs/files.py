"""Files named by what is in them. Every call blocks: away from the event loop with it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


class FileStore:
    """A folder of files, each named by its SHA-256 in hexadecimal.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keeps bytes and returns their name; whole or not at all, whatever ends the process.

        Raises:
            OSError: no room.
        """
        name = hashlib.sha256(data).hexdigest()
        if self.size(name) == len(data):
            return name
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                temporary.unlink()
                raise
        self.adopt(temporary, name)
        return name

    def get(self, name: str) -> bytes:
        """The bytes.

        Raises:
            KeyError: there is no such file, or it has other bytes than its name says.
        """
        try:
            data = (self._folder / name).read_bytes()
        except FileNotFoundError as error:
            raise KeyError(name) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise KeyError(name)
        return data

    def adopt(self, path: Path, name: str) -> None:
        """Takes over a file that is complete, on the same file system, and that nobody writes to any more."""
        path.replace(self._folder / name)

    def size(self, name: str) -> int | None:
        """In bytes; None without such a file."""
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Without effect if there is no such file."""
        (self._folder / name).unlink(missing_ok=True)

    def total_bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in self._folder.iterdir())
