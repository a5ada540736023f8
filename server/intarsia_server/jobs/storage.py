"""What can go wrong with a disk, in words that may be told."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class StorageError(RuntimeError):
    """What the server keeps on disk cannot be written or read; the log says more."""

    @property
    def reason(self) -> str:
        """What the disk or the database said, for the log: the error's own text may have a path in it."""
        cause = self.__cause__
        if isinstance(cause, OSError):
            return cause.strerror or type(cause).__name__
        return str(cause or self)


class StorageFullError(StorageError):
    """There is no room left on the disk."""


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns what a disk and a database raise into errors whose text names no path.

    Raises:
        StorageError, StorageFullError: `what` could not be stored.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        full = (
            error.errno in _FULL
            if isinstance(error, OSError)
            else getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        )
        if full:
            raise StorageFullError(f"the server's disk is full: {what} cannot be stored") from error
        raise StorageError(f"the server's storage does not work: {what} cannot be stored") from error
