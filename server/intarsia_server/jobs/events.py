"""A job's events: numbered, dated, and kept in bounded memory for whoever watches."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, takewhile

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

FLEETING = ProgressEvent | PreviewEvent
"""What is worth little once there is a newer one."""

CROWD = 10
"""Readers from which on a job's events are shared out: fewer see every step."""

CROWD_RATE = 250.0
"""Events a second that all readers of a crowd get together: more would take from the worker what they show."""


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
    else is kept for as long as the log is. Readers in a `CROWD` take turns of a length that keeps all of them within
    `CROWD_RATE`, and get a snapshot in place of what came in between; only the newest preview, and what is neither
    progress nor preview, is worth a message of its own, and the latter ends the turn.

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
    _urgent: asyncio.Event = field(default_factory=asyncio.Event)
    _urgent_sequence: int = 0
    _readers: int = 0
    _shared: tuple[object, Numbered] | None = None
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
        if not isinstance(event, FLEETING):
            self._urgent_sequence = self.sequence
            self._urgent.set()
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
        self._urgent.set()
        self._changed.set()

    async def read(self, after: int = 0, *, heartbeat: float) -> AsyncGenerator[Numbered | None, None]:
        """Yields events as they come, and None whenever there was none for `heartbeat` seconds.

        Args:
            after: number of the last message that the reader has; an event of which it has but a part comes whole.
            heartbeat: in seconds.

        Raises:
            Exception: the error that the log was closed with.
        """
        self._readers += 1
        try:
            while True:
                sent = 0
                while (kept := self._next(after)) is not None:
                    after = kept.last
                    sent += 1
                    yield kept
                if self._closed:
                    break
                if sent and self._readers >= CROWD:
                    await self._sit_out(after, min(heartbeat, sent * self._readers / CROWD_RATE))
                    continue
                self._changed.clear()
                try:
                    async with asyncio.timeout(heartbeat):
                        await self._changed.wait()
                except TimeoutError:
                    yield None
        finally:
            self._readers -= 1
        if self._error is not None:
            raise self._error

    async def _sit_out(self, after: int, seconds: float) -> None:
        """Waits so long, unless there is or comes something that every reader is to have at once."""
        if self._urgent_sequence > after:
            return
        self._urgent.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    def _next(self, after: int) -> Numbered | None:
        """What a reader gets after the message with that number."""
        index = bisect_right(self._kept, after, key=lambda kept: kept.last)
        if index == len(self._kept):
            return None
        kept = self._kept[index]
        if self._readers >= CROWD:
            kept = self._summed_up(index)
        return kept if isinstance(kept, Numbered) else self._snapshot(kept)

    def _summed_up(self, index: int) -> Numbered | _Gap:
        """What is kept there, or a gap that stands for it and for the progress and previews that follow."""
        run = list(takewhile(_fleeting, islice(self._kept, index, None)))
        previews = [place for place, kept in enumerate(run) if isinstance(_event(kept), PreviewEvent)]
        if previews:
            run = run[: previews[-1]] or run[:1]
        if len(run) < 2:
            return self._kept[index]
        progress = next((found for kept in reversed(run) if (found := _progress(kept)) is not None), None)
        return _Gap(run[-1].last, run[-1].time, run[-1].stage, progress)

    def _snapshot(self, gap: _Gap) -> Numbered:
        # A crowd's readers get the same one, of which a message is made but once.
        key = (gap.last, gap.progress, self.sequence)
        if self._shared is None or self._shared[0] != key:
            event = SnapshotEvent(self.view(), gap.stage, gap.progress)
            self._shared = key, Numbered(gap.last, gap.time, event, gap.last, gap.stage)
        return self._shared[1]

    def _drop_oldest(self, kind: type) -> None:
        """Puts a gap in the event's place, or widens the one that is there."""
        index = next(
            index for index, kept in enumerate(self._kept) if isinstance(kept, Numbered) and type(kept.event) is kind
        )
        dropped = self._kept[index]
        assert isinstance(dropped, Numbered)
        self._kinds[kind] -= 1
        gap = _Gap(dropped.last, dropped.time, dropped.stage, _progress(dropped))
        self._kept[index] = gap
        for earlier, later in ((index, index + 1), (index - 1, index)):
            if earlier >= 0 and later < len(self._kept):
                first, second = self._kept[earlier], self._kept[later]
                if isinstance(first, _Gap) and isinstance(second, _Gap):
                    second.progress = second.progress or first.progress
                    del self._kept[earlier]


def _event(kept: Numbered | _Gap) -> JobEvent | None:
    return kept.event if isinstance(kept, Numbered) else None


def _fleeting(kept: Numbered | _Gap) -> bool:
    return isinstance(_event(kept), FLEETING | None)


def _progress(kept: Numbered | _Gap) -> ProgressEvent | None:
    if isinstance(kept, _Gap):
        return kept.progress
    return kept.event if isinstance(kept.event, ProgressEvent) else None
