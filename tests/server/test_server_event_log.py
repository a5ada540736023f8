"""The event log: bounded for a reader that is away, and never without what matters."""

from __future__ import annotations

import asyncio
from unittest.mock import ANY

import pytest
from intarsia_server.engine.events import StageStarted, TransferWarning
from intarsia_server.engine.request import ImageFormat
from intarsia_server.executors.base import PreviewEvent, ProgressEvent, ResultEvent
from intarsia_server.jobs.events import LIMITS, AcceptedEvent, CompletedEvent, EventLog, Numbered, QueuedEvent

ACCEPTED = AcceptedEvent("job", "request", 1, 96, 64)
QUEUED = QueuedEvent(0)
STAGE = StageStarted("vanilla", 0, 1, 10_000)
WARNING = TransferWarning("code", "message")
RESULT = ResultEvent(b"picture", ImageFormat.PNG, 96, 64, ())
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
        log = EventLog()
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
        log = EventLog()
        for step in range(1, 10_001):
            log.publish(progress(step))
        return await all_of(log)

    numbered = asyncio.run(scenario())
    assert 1 <= len(numbered) <= LIMITS[ProgressEvent]
    assert [item.event for item in numbered] == [progress(10_001 - left) for left in range(len(numbered), 0, -1)]
    assert [item.sequence for item in numbered] == [10_001 - left for left in range(len(numbered), 0, -1)]


def test_state_warnings_and_result_are_never_dropped() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog()
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
    others = [item for item in numbered if not isinstance(item.event, ProgressEvent)]
    assert [item.event for item in others] == [ACCEPTED, QUEUED, STAGE, WARNING, RESULT, COMPLETED]
    assert [item.sequence for item in others] == [1, 2, 3, 5004, 10_005, 10_006]
    sequences = [item.sequence for item in numbered]
    assert sequences == sorted(set(sequences))
    assert len(numbered) <= LIMITS[ProgressEvent] + len(others)


def test_newest_preview_outlives_a_flood_of_progress() -> None:
    """Who asked for few previews and falls behind still sees the latest one."""

    async def scenario() -> list[Numbered]:
        log = EventLog()
        for step in range(1, 2001):
            log.publish(progress(step))
            if step in {500, 1000}:
                log.publish(preview(step))
        return await all_of(log)

    previews = [item.event for item in asyncio.run(scenario()) if isinstance(item.event, PreviewEvent)]
    assert previews[-1:] == [preview(1000)]


def test_reader_that_catches_up_frees_the_room() -> None:
    async def scenario() -> list[Numbered]:
        log = EventLog()
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
        log = EventLog()

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
        log = EventLog()
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
        log = EventLog()
        log.publish(ACCEPTED)
        log.publish(STAGE)
        log.close(ValueError("broken"))
        reader = log.read(heartbeat=60)
        assert await anext(reader) == Numbered(1, ANY, ACCEPTED)
        assert await anext(reader) == Numbered(2, ANY, STAGE)
        with pytest.raises(ValueError, match="broken"):
            await anext(reader)

    asyncio.run(scenario())
