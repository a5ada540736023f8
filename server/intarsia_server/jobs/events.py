"""A job's events: numbered, dated, and kept in bounded memory for whoever watches."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.executors.base import ExecutorEvent, PreviewEvent, ProgressEvent
from intarsia_server.jobs.record import JobRecord, Outcome


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
class StoredResultEvent:
    """The finished picture is stored; it is sent in messages of at most `outcome.chunk_bytes` of it."""

    outcome: Outcome

    @property
    def chunks(self) -> int:
        """Messages that follow the first; 0 where that holds the picture itself."""
        size, most = self.outcome.size_bytes, self.outcome.chunk_bytes
        return 0 if size <= most else -(-size // most)


@dataclass(frozen=True)
class CompletedEvent:
    """Always the last event of a transfer that succeeded."""

    queued_seconds: float
    run_seconds: float
    stages: tuple[StageDone, ...]


@dataclass(frozen=True)
class SnapshotEvent:
    """In place of events that are no longer kept: the job now, and stage and newest progress after the last of them."""

    job: JobRecord
    stage: StageStarted | None
    progress: ProgressEvent | None


JobEvent = AcceptedEvent | QueuedEvent | StoredResultEvent | CompletedEvent | SnapshotEvent | ExecutorEvent

LIMITS: Mapping[type, int] = {ProgressEvent: 256, PreviewEvent: 8, QueuedEvent: 16}
"""How many events of a kind a job keeps; beyond it the oldest of the kind goes. Other kinds are few, and all kept."""


@dataclass(frozen=True, eq=False)
class Numbered:
    """An event with its number in the job (from 1) and its time (seconds since the epoch).

    Attributes:
        sequence: of its first message.
        time: when it happened.
        event: what happened.
        last: number of its last message.
        stage: that was being worked on.
    """

    sequence: int
    time: float
    event: JobEvent
    last: int
    stage: StageStarted | None


@dataclass(eq=False)
class _Gap:
    """Where events were dropped: the number and time of the last of them, and how things stood then."""

    last: int
    time: float
    stage: StageStarted | None
    progress: ProgressEvent | None


@dataclass(eq=False)
class EventLog:
    """One job's events, for any number of readers, each with its own place in it.

    Progress and previews are worth little once newer ones exist: past their `LIMITS` the oldest is dropped. A reader
    that has not had it yet gets a snapshot in its place, with the number of the last event that is missing. Everything
    else is kept for as long as the log is.

    Attributes:
        view: gives the job as it is now, for a snapshot.
        sequence: number of the newest event.
    """

    view: Callable[[], JobRecord]
    sequence: int = 0
    _kept: list[Numbered | _Gap] = field(default_factory=list)
    _kinds: Counter[type] = field(default_factory=Counter)
    _stage: StageStarted | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _error: Exception | None = None
    _closed: bool = False

    def publish(self, event: JobEvent, *, at: float | None = None) -> None:
        """Appends an event that happened at that time (seconds since the epoch; None: now)."""
        if isinstance(event, StageStarted):
            self._stage = event
        first = self.sequence + 1
        self.sequence = first + (event.chunks if isinstance(event, StoredResultEvent) else 0)
        self._kept.append(Numbered(first, time.time() if at is None else at, event, self.sequence, self._stage))
        kind = type(event)
        if kind in LIMITS:
            self._kinds[kind] += 1
            if self._kinds[kind] > LIMITS[kind]:
                self._drop_oldest(kind)
        self._changed.set()

    def skip_to(self, sequence: int) -> None:
        """Leaves out the numbers up to this one: what had them is not known any more."""
        if sequence > self.sequence:
            self.sequence = sequence
            self._kept.append(_Gap(sequence, time.time(), self._stage, None))

    def close(self, error: Exception | None = None) -> None:
        """Ends the log; readers get what is left, then the error if there is one."""
        self._error = error
        self._closed = True
        self._changed.set()

    async def read(self, after: int = 0, *, heartbeat: float) -> AsyncGenerator[Numbered | None, None]:
        """Yields events as they come, and None whenever there was none for `heartbeat` seconds.

        Args:
            after: number of the last message that the reader has; an event of which it has but a part comes whole.
            heartbeat: in seconds.

        Raises:
            Exception: the error that the log was closed with.
        """
        while True:
            while (index := bisect_right(self._kept, after, key=lambda kept: kept.last)) < len(self._kept):
                kept = self._kept[index]
                after = kept.last
                yield kept if isinstance(kept, Numbered) else self._snapshot(kept)
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

    def _snapshot(self, gap: _Gap) -> Numbered:
        return Numbered(gap.last, gap.time, SnapshotEvent(self.view(), gap.stage, gap.progress), gap.last, gap.stage)

    def _drop_oldest(self, kind: type) -> None:
        """Puts a gap in the event's place, or widens the one that is there."""
        index = next(
            index for index, kept in enumerate(self._kept) if isinstance(kept, Numbered) and type(kept.event) is kind
        )
        dropped = self._kept[index]
        assert isinstance(dropped, Numbered)
        self._kinds[kind] -= 1
        progress = dropped.event if isinstance(dropped.event, ProgressEvent) else None
        gap = _Gap(dropped.last, dropped.time, dropped.stage, progress)
        self._kept[index] = gap
        for earlier, later in ((index, index + 1), (index - 1, index)):
            if earlier >= 0 and later < len(self._kept):
                first, second = self._kept[earlier], self._kept[later]
                if isinstance(first, _Gap) and isinstance(second, _Gap):
                    second.progress = second.progress or first.progress
                    del self._kept[earlier]
