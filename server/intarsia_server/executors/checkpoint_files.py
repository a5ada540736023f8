"""Which files a job's checkpoint takes. No torch here: the front process removes them."""

from __future__ import annotations

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
