"""A device in words. No torch here: the front process shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceInfo:
    """A device for people: name ("cpu", "cuda:0"), description, memory in bytes (0: not known) and CPU threads."""

    name: str
    description: str
    memory_bytes: int
    threads: int
