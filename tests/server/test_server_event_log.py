"""The event log: bounded for a reader that is away, and never without what matters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia_server.engine.events import TransferWarning
from intarsia_server.engine.request import ImageFormat
from intarsia_server.engine.stages import StageStarted
from intarsia_server.executors.base import PreviewEvent, ProgressEvent
from intarsia_server.jobs import events
from intarsia_server.jobs.events import (
    CROWD,
    LIMITS,
    AcceptedEvent,
    CompletedEvent,
    EventLog,
    JobEvent,
    Numbered,
    QueuedEvent,
    SnapshotEvent,
    StoredResultEvent,
)
from intarsia_server.jobs.record import JobRecord, Outcome

VIEW = JobRecord(job_id="job", request_id="request", owner="", client="", kind="gatys", payload="", size=(96, 64))
ACCEPTED = AcceptedEvent("job", "request", 1, 96, 64)
QUEUED = QueuedEvent(0)
STAGE = StageStarted("vanilla", 0, 1, 10_000)
WARNING = TransferWarning("code", "message")
RESULT = StoredResultEvent(
    Outcome(
        sha256="hash",
        size_bytes=7,
        format=ImageFormat.PNG,
        width=96,
        height=64,
        sequence=1,
        chunk_bytes=7,
        queued_seconds=0.0,
        run_seconds=1.0,
        stages=(),
    )
)
IN_CHUNKS = StoredResultEvent(replace(RESULT.outcome, chunk_bytes=3))
COMPLETED = CompletedEvent(0.0, 1.0, ())


def progress(step: int) -> ProgressEvent:
    return ProgressEvent("vanilla", step, 10_000, (("content", None, 1.0),), 1.0, step / 10_000, None)


def preview(step: int) -> PreviewEvent:
    return PreviewEvent("vanilla", step, b"picture")


async def all_of(log: EventLog) -> list[Numbered]:
    """Everything that a closed log still holds."""
    log.close()
    return [numbered async for numbered in log.read(heartbeat=60) if numbered is not None]


def test_events_come_as_they_were_published() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        for event in (ACCEPTED, STAGE, progress(1), RESULT, COMPLETED):
            log.publish(event)
        return await all_of(log)

    numbered = asyncio.run(scenario())
    assert [item.event for item in numbered] == [ACCEPTED, STAGE, progress(1), RESULT, COMPLETED]
    assert [item.sequence for item in numbered] == [1, 2, 3, 4, 5]
    times = [item.time for item in numbered]
    assert times == sorted(times)


def test_unread_progress_is_bounded_and_the_newest_wins() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        for step in range(1, 10_001):
            log.publish(progress(step))
        return await all_of(log)

    snapshot, *numbered = asyncio.run(scenario())
    left = LIMITS[ProgressEvent]
    assert [item.event for item in numbered] == [progress(step) for step in range(10_001 - left, 10_001)]
    assert [item.sequence for item in numbered] == list(range(10_001 - left, 10_001))
    assert snapshot.sequence == 10_000 - left
    assert snapshot.event == SnapshotEvent(VIEW, None, progress(10_000 - left))


def test_state_warnings_and_result_are_never_dropped() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        for event in (ACCEPTED, QUEUED, STAGE):
            log.publish(event)
        for step in range(1, 5001):
            log.publish(progress(step))
        log.publish(WARNING)
        for step in range(5001, 10_001):
            log.publish(progress(step))
        log.publish(RESULT)
        log.publish(COMPLETED)
        return await all_of(log)

    numbered = asyncio.run(scenario())
    others = [item for item in numbered if not isinstance(item.event, ProgressEvent | SnapshotEvent)]
    assert [item.event for item in others] == [ACCEPTED, QUEUED, STAGE, WARNING, RESULT, COMPLETED]
    assert [item.sequence for item in others] == [1, 2, 3, 5004, 10_005, 10_006]
    sequences = [item.sequence for item in numbered]
    assert sequences == sorted(set(sequences))
    assert len(numbered) <= LIMITS[ProgressEvent] + 2 * len(others)
    snapshots = [item for item in numbered if isinstance(item.event, SnapshotEvent)]
    assert [item.event for item in snapshots] == [
        SnapshotEvent(VIEW, STAGE, progress(5000)),
        SnapshotEvent(VIEW, STAGE, progress(10_000 - LIMITS[ProgressEvent])),
    ]
    assert [item.sequence for item in snapshots] == [5003, 10_004 - LIMITS[ProgressEvent]]


def test_newest_preview_outlives_a_flood_of_progress() -> None:
    """Who asked for few previews and falls behind still sees the latest one."""

    async def scenario() -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        for step in range(1, 2001):
            log.publish(progress(step))
            if step in {500, 1000}:
                log.publish(preview(step))
        return await all_of(log)

    previews = [item.event for item in asyncio.run(scenario()) if isinstance(item.event, PreviewEvent)]
    assert previews[-1:] == [preview(1000)]


def test_reader_that_catches_up_frees_the_room() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        reader = log.read(heartbeat=60)
        seen: list[Numbered] = []
        for step in range(1, 4 * LIMITS[ProgressEvent] + 1):
            log.publish(progress(step))
            numbered = await anext(reader)
            assert numbered is not None
            seen.append(numbered)
        return seen

    seen = asyncio.run(scenario())
    assert [item.sequence for item in seen] == list(range(1, 4 * LIMITS[ProgressEvent] + 1))


def test_waiting_reader_gets_events_as_they_come() -> None:
    async def scenario() -> list[int]:
        log = EventLog(lambda: VIEW)

        async def read() -> list[int]:
            return [numbered.sequence async for numbered in log.read(heartbeat=60) if numbered is not None]

        reader = asyncio.create_task(read())
        for step in range(1, 6):
            await asyncio.sleep(0)
            log.publish(progress(step))
        await asyncio.sleep(0)
        log.close()
        return await asyncio.wait_for(reader, 30)

    assert asyncio.run(scenario()) == [1, 2, 3, 4, 5]


def test_heartbeat_when_nothing_happens() -> None:
    async def scenario() -> list[Numbered | None]:
        log = EventLog(lambda: VIEW)
        log.publish(ACCEPTED)
        reader = log.read(heartbeat=0.01)
        seen = [await anext(reader) for _ in range(3)]
        log.publish(STAGE)
        seen.append(await anext(reader))
        return seen

    seen = asyncio.run(scenario())
    assert seen[1:3] == [None, None]
    assert [item.event for item in seen if item] == [ACCEPTED, STAGE]
    assert [item.sequence for item in seen if item] == [1, 2]


def test_error_comes_after_the_events() -> None:
    async def scenario() -> None:
        log = EventLog(lambda: VIEW)
        log.publish(ACCEPTED)
        log.publish(STAGE)
        log.close(ValueError("broken"))
        reader = log.read(heartbeat=60)
        for sequence, event in ((1, ACCEPTED), (2, STAGE)):
            numbered = await anext(reader)
            assert numbered is not None
            assert (numbered.sequence, numbered.event) == (sequence, event)
        with pytest.raises(ValueError, match="broken"):
            await anext(reader)

    asyncio.run(scenario())


def test_result_in_chunks_has_a_number_for_each_message() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        for event in (ACCEPTED, IN_CHUNKS, COMPLETED):
            log.publish(event)
        return await all_of(log)

    assert [(item.sequence, item.last) for item in asyncio.run(scenario())] == [(1, 1), (2, 5), (6, 6)]


def test_readers_have_their_own_places() -> None:
    async def scenario() -> None:
        log = EventLog(lambda: VIEW)
        for event in (ACCEPTED, STAGE, progress(1), IN_CHUNKS, COMPLETED):
            log.publish(event)
        log.close()
        for after, first in ((0, 1), (1, 2), (3, 4), (4, 4), (6, 4), (7, 8), (8, None)):
            seen = [numbered.sequence async for numbered in log.read(after, heartbeat=60) if numbered is not None]
            assert next(iter(seen), None) == first
            assert len(seen) == len([event for event in (1, 2, 3, 4, 8) if first and event >= first])

    asyncio.run(scenario())


def test_numbers_that_are_left_out() -> None:
    async def scenario() -> None:
        log = EventLog(lambda: VIEW)
        log.publish(ACCEPTED)
        log.skip_to(1000)
        log.publish(STAGE)
        log.close()

        async def after(sequence: int) -> list[tuple[int, JobEvent]]:
            return [(item.sequence, item.event) async for item in log.read(sequence, heartbeat=60) if item]

        snapshot = (1000, SnapshotEvent(VIEW, None, None))
        assert await after(0) == [(1, ACCEPTED), snapshot, (1001, STAGE)]
        assert await after(700) == [snapshot, (1001, STAGE)]
        assert await after(1000) == [(1001, STAGE)]

    asyncio.run(scenario())


async def crowd_of(log: EventLog, size: int) -> list[AsyncGenerator[Numbered | None, None]]:
    """Readers who all have the first event."""
    readers = [log.read(heartbeat=60) for _ in range(size)]
    for reader in readers:
        await anext(reader)
    return readers


def test_crowd_gets_a_snapshot_in_place_of_what_came_in_between() -> None:
    async def scenario(size: int) -> list[Numbered]:
        log = EventLog(lambda: VIEW)
        log.publish(STAGE)
        readers = await crowd_of(log, size)
        for step in range(1, 101):
            log.publish(progress(step))
            if step in {20, 50}:
                log.publish(preview(step))
        log.publish(WARNING)
        log.close()
        seen = list[Numbered]()
        while not seen or seen[-1].event != WARNING:
            first, *others = [await anext(reader) for reader in readers]
            assert first is not None
            assert all(other is first for other in others)  # its message is made once
            seen.append(first)
        return seen

    assert len(asyncio.run(scenario(CROWD - 1))) == 103
    before, newest, after, warning = asyncio.run(scenario(CROWD))
    assert (before.sequence, before.event) == (52, SnapshotEvent(VIEW, STAGE, progress(50)))
    assert (newest.sequence, newest.event) == (53, preview(50))
    assert (after.sequence, after.event) == (103, SnapshotEvent(VIEW, STAGE, progress(100)))
    assert (warning.sequence, warning.event) == (104, WARNING)


def test_crowd_waits_for_its_turn_but_not_for_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CROWD_RATE", 0.001)

    async def scenario() -> None:
        log = EventLog(lambda: VIEW)
        log.publish(STAGE)
        reader, *_others = await crowd_of(log, CROWD)
        for event in (WARNING, RESULT):
            waiting = asyncio.ensure_future(anext(reader))
            await asyncio.sleep(0)
            for step in range(1, 10):
                log.publish(progress(step))
                await asyncio.sleep(0.001)
            assert not waiting.done()
            log.publish(event)
            snapshot = await asyncio.wait_for(waiting, 30)
            assert snapshot is not None
            assert isinstance(snapshot.event, SnapshotEvent)
            urgent = await anext(reader)
            assert urgent is not None
            assert urgent.event == event
        waiting = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0.001)
        log.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 30)

    asyncio.run(scenario())


def test_crowd_that_has_gone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CROWD_RATE", 0.001)

    async def scenario() -> None:
        log = EventLog(lambda: VIEW)
        log.publish(STAGE)
        reader, *others = await crowd_of(log, CROWD)
        for other in others:
            await other.aclose()
        for step in (1, 2, 3):
            log.publish(progress(step))
        for step in (1, 2, 3):
            numbered = await asyncio.wait_for(anext(reader), 30)
            assert numbered is not None
            assert numbered.event == progress(step)

    asyncio.run(scenario())


@pytest.mark.parametrize("crowd", [CROWD, 1])
def test_any_reader_sees_every_number_or_what_stands_for_it(crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is published and whenever it is read: numbers grow, and a gap in them ends with a snapshot."""
    monkeypatch.setattr(events, "CROWD", crowd)

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.sampled_from(["progress", "preview", "queued", "warning", "many", "read"]), max_size=40))
    def check(actions: list[str]) -> None:
        async def scenario() -> None:
            log, steps, readers = EventLog(lambda: VIEW), 0, list[list[Numbered]]()
            others = {"queued": QUEUED, "warning": WARNING}
            for action in actions:
                if action == "read":
                    readers.append([])
                for _ in range(300 if action == "many" else action != "read"):
                    steps += 1
                    event = preview(steps) if action == "preview" else others.get(action, progress(steps))
                    log.publish(event)
                for seen in readers[::2]:
                    after = seen[-1].last if seen else 0
                    reader = log.read(after, heartbeat=60)
                    while after < log.sequence:
                        numbered = await anext(reader)
                        assert numbered is not None
                        seen.append(numbered)
                        after = numbered.last
            log.close()
            readers.append([])
            for seen in readers:
                reader = log.read(seen[-1].last if seen else 0, heartbeat=60)
                seen.extend([numbered async for numbered in reader if numbered is not None])
                last = 0
                for numbered in seen:
                    assert numbered.sequence > last
                    assert numbered.sequence == last + 1 or isinstance(numbered.event, SnapshotEvent)
                    if isinstance(numbered.event, SnapshotEvent) and numbered.event.progress is not None:
                        assert numbered.event.progress.step <= numbered.sequence
                    last = numbered.last
                assert last == log.sequence

        asyncio.run(scenario())

    check()
