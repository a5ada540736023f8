"""A job's events: numbered, dated, and bounded for a reader that falls behind."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from intarsia_server.executors.base import ExecutorEvent, PreviewEvent, ProgressEvent, StageSummary

DROPPABLE_LIMIT = 256
"""Progress and preview events that are kept for a reader; beyond it the oldest one goes."""


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
    """Always the last event of a job that succeeded."""

    queued_seconds: float
    run_seconds: float
    stages: tuple[StageSummary, ...]


JobEvent = AcceptedEvent | QueuedEvent | CompletedEvent | ExecutorEvent


@dataclass(frozen=True)
class Numbered:
    """An event with its number in the job (from 1) and its time (seconds since the epoch)."""

    sequence: int
    time: float
    event: JobEvent


class EventLog:
    """Events on their way to one reader.

    Progress and previews are worth little once newer ones exist: past `DROPPABLE_LIMIT` the oldest of them is dropped,
    which leaves a gap in the sequence. Everything else is kept until it is read.
    """

    def __init__(self) -> None:
        self._waiting: deque[Numbered] = deque()
        self._droppable = 0
        self._sequence = 0
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self._closed = False

    def publish(self, event: JobEvent) -> None:
        """Appends an event."""
        self._sequence += 1
        if isinstance(event, (ProgressEvent, PreviewEvent)):
            self._droppable += 1
            if self._droppable > DROPPABLE_LIMIT:
                self._drop_oldest()
        self._waiting.append(Numbered(self._sequence, time.time(), event))
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
                if isinstance(numbered.event, (ProgressEvent, PreviewEvent)):
                    self._droppable -= 1
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

    def _drop_oldest(self) -> None:
        for index, numbered in enumerate(self._waiting):
            if isinstance(numbered.event, (ProgressEvent, PreviewEvent)):
                del self._waiting[index]
                self._droppable -= 1
                return
