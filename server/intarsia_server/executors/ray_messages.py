"""What an actor says beyond what any worker does. Neither torch nor Ray here: both sides import it."""

from __future__ import annotations

from dataclasses import dataclass

from intarsia_server.executors.messages import WorkerMessage

FRONT_GROUP = "front"
"""Methods that are called while the actor works have threads of their own, its concurrency group."""


@dataclass(frozen=True)
class CheckpointPart:
    """The next bytes of a checkpoint of that request; none: it is whole, and the next part is another's first."""

    serial: int
    data: bytes


@dataclass(frozen=True)
class LogLine:
    """A line of the actor's log, as it is to be written."""

    text: str


RayMessage = WorkerMessage | CheckpointPart | LogLine


@dataclass(frozen=True)
class Told:
    """What an actor had to say, in order, and what its process is."""

    messages: tuple[RayMessage, ...]
    pid: int
    resident_memory: int
