"""A job's events: numbered, dated, and bounded for a reader that falls behind."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from intarsia_server.engine.events import StageDone
from intarsia_server.executors.base import ExecutorEvent, PreviewEvent, ProgressEvent


@dataclass(frozen=True)
class AcceptedEvent:
    """Always the first event; size in pixels."""

    job_id: str
    request_id: str
    queue_position: int
    width: int
    height: int


@dataclass(frozen=True)
class QueuedEvent:
    """The job has moved up."""

    queue_position: int


@dataclass(frozen=True)
class CompletedEvent:
    """Always the last event of a transfer that succeeded."""

    queued_seconds: float
    run_seconds: float
    stages: tuple[StageDone, ...]


JobEvent = AcceptedEvent | QueuedEvent | CompletedEvent | ExecutorEvent

LIMITS: Mapping[type, int] = {ProgressEvent: 256, PreviewEvent: 8}
"""How many events of a kind wait for a reader; beyond it the oldest of the kind goes. Other kinds are all kept."""


@dataclass(frozen=True)
class Numbered:
    """An event with its number in the job (from 1) and its time (seconds since the epoch)."""

    sequence: int
    time: float
    event: JobEvent


class EventLog:
    """Events on their way to one reader.

    Progress and previews are worth little once newer ones exist: past their `LIMITS` the oldest is dropped, which
    leaves a gap in the sequence. Everything else is kept until it is read.
    """

    def __init__(self) -> None:
        self._waiting: deque[Numbered] = deque()
        self._kinds: Counter[type] = Counter()
        self._sequence = 0
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._closed = False

    def publish(self, event: JobEvent) -> None:
        """Appends an event."""
        self._sequence += 1
        self._waiting.append(Numbered(self._sequence, time.time(), event))
        kind = type(event)
        self._kinds[kind] += 1
        if self._kinds[kind] > LIMITS.get(kind, self._kinds[kind]):
            self._drop_oldest(kind)
        self._changed.set()

    def close(self, error: Exception | None = None) -> None:
        """Ends the log; a reader gets what is left, then the error if there is one."""
        self._error = error
        self._closed = True
        self._changed.set()

    async def read(self, *, heartbeat: float) -> AsyncGenerator[Numbered | None, None]:
        """Yields events as they come, and None whenever there was none for `heartbeat` seconds.

        Raises:
            Exception: the error that the log was closed with.
        """
        while True:
            while self._waiting:
                numbered = self._waiting.popleft()
                self._kinds[type(numbered.event)] -= 1
                yield numbered
            if self._closed:
                break
            self._changed.clear()
            try:
                async with asyncio.timeout(heartbeat):
                    await self._changed.wait()
            except TimeoutError:
                yield None
        if self._error is not None:
            raise self._error

    def _drop_oldest(self, kind: type) -> None:
        index = next(index for index, numbered in enumerate(self._waiting) if type(numbered.event) is kind)
        del self._waiting[index]
        self._kinds[kind] -= 1
