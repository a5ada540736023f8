"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file beside `path`, then renames it.

    Raises:
        OSError: The folder is missing or cannot be written; nothing is left behind.
    """
    target = Path(path)
    # Not the tempfile module: its files are readable by their owner alone, whatever the umask says.
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
