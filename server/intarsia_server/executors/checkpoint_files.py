"""Which files a job's checkpoint takes, and how they are made. No torch here: the front process has to do with them."""

from __future__ import annotations

import os
from pathlib import Path


def part_of(path: Path) -> Path:
    """Where the next checkpoint is put together before it takes the place of the one at `path`."""
    return path.with_name(f"{path.name}.part")


def remove_checkpoint(path: Path) -> None:
    """Removes a job's checkpoint, and what a worker that died may have left of another; neither need be there.

    Raises:
        OSError: it cannot be done.
    """
    path.unlink(missing_ok=True)
    part_of(path).unlink(missing_ok=True)


def private(path: str, flags: int) -> int:
    """Opens a file that nobody else may read."""
    return os.open(path, flags, mode=0o600)


def sync_folder(folder: Path) -> None:
    """Waits until a file's new name is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
