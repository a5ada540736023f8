"""A device in words, and what its process holds. No torch here: the front process shows them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeviceInfo:
    """A device for people: name ("cpu", "cuda:0"), description, memory in bytes (0: not known) and CPU threads."""

    name: str
    description: str
    memory_bytes: int
    threads: int


def resident_memory(pid: int | str) -> int:
    """Bytes that a process ("self": this one) holds in the computer's memory; 0: not known, or it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
