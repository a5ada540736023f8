"""What every executor does, whatever its workers are: processes of this computer, or actors of a Ray cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import server_pictures as pictures
from executor_driving import (
    CONFIG,
    ENDLESS,
    MAKE,
    SHORT,
    STEPS,
    both,
    image,
    of_kind,
    request,
    run,
    step_of,
    summaries,
    told,
)
from intarsia_server.engine.errors import InvalidInputError, WeightsUnavailableError
from intarsia_server.engine.events import TransferWarning
from intarsia_server.engine.request import Box, Boxes, EvaluationRequest, SegmentationRequest, Work
from intarsia_server.engine.stages import StageStarted
from intarsia_server.executors.base import (
    EvaluatedEvent,
    ExecutionCancelledError,
    ExecutorEvent,
    PreviewEvent,
    ProgressEvent,
    ResultEvent,
    ResumedEvent,
    SegmentedEvent,
    WorkerDiedError,
)
from intarsia_server.executors.checkpoint_files import part_of
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.pool import PoolExecutor
from server_process import LONG, alive, eventually

Value = TypeVar("Value")


@dataclass
class Driven:
    """An executor with one worker, and the event loop that it lives in."""

    executor: PoolExecutor
    runner: asyncio.Runner
    ready: list[bool]

    def do(self, work: Callable[[], Awaitable[Value]]) -> Value:
        async def limited() -> Value:
            async with asyncio.timeout(LONG):
                return await work()

        return self.runner.run(limited())

    def run(self, of: Work, *arguments: Any, **options: Any) -> list[ExecutorEvent]:
        return self.do(lambda: run(self.executor, of, *arguments or (None,), **options))

    def fails(self, kind: type[Exception], of: Work, cancel: asyncio.Event | None = None) -> Any:
        """The error that a run ends with."""

        async def go() -> None:
            async for _ in self.executor.run(of, cancel or asyncio.Event()):
                pass

        with pytest.raises(kind) as caught:
            self.do(go)
        return caught.value

    @property
    def pid(self) -> int:
        (worker,) = self.executor.workers()
        assert worker.pid is not None
        return worker.pid

    def kill(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)


@pytest.fixture(scope="module", params=MAKE)
def driven(request: pytest.FixtureRequest) -> Iterator[Driven]:
    with asyncio.Runner() as runner:
        driven = Driven(MAKE[request.param](CONFIG), runner, [])
        driven.do(lambda: driven.executor.start(driven.ready.append))
        yield driven
        driven.do(driven.executor.stop)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[ExecutorEvent]]:
    """What a local executor makes of the requests; whoever makes it again makes the same bits."""

    async def go() -> dict[str, list[ExecutorEvent]]:
        executor = LocalExecutor([CONFIG])
        await executor.start(lambda _: None)
        try:
            return {"short": await run(executor, SHORT, None), "whole": await run(executor, request(), None)}
        finally:
            await executor.stop()

    return asyncio.run(go())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job"


def beside(path: Path) -> list[str]:
    """What lies in its folder."""
    return [entry.name for entry in path.parent.iterdir()]


def test_it_says_what_its_workers_are(driven: Driven) -> None:
    info = driven.executor.info()
    assert info is not None
    assert info == driven.do(driven.executor.started)
    assert [device.name for device in info.devices] == ["cpu"]
    assert driven.executor.slots == 1
    assert driven.ready[0] is True
    (worker,) = driven.executor.workers()
    assert (worker.device, worker.restarts) == ("cpu", 0)
    assert alive(driven.pid)
    assert worker.resident_memory > 2**27 or driven.run(SHORT)


def test_a_run_and_its_events(driven: Driven, expected: dict[str, list[ExecutorEvent]]) -> None:
    events, same = driven.run(SHORT), expected["short"]
    assert [type(event) for event in events] == [type(event) for event in same]
    assert told(events) == told(same)
    assert of_kind(StageStarted, events) == of_kind(StageStarted, same)
    assert of_kind(PreviewEvent, events) == of_kind(PreviewEvent, same)
    assert of_kind(PreviewEvent, events)
    assert image(events) == image(same)


def test_what_is_cancelled_before_it_starts(driven: Driven) -> None:
    cancel = asyncio.Event()
    cancel.set()
    driven.fails(ExecutionCancelledError, SHORT, cancel)


def test_what_is_cancelled_midway(driven: Driven, expected: dict[str, list[ExecutorEvent]]) -> None:
    pid = driven.pid

    async def go() -> None:
        cancel = asyncio.Event()
        async for event in driven.executor.run(ENDLESS, cancel):
            if isinstance(event, ProgressEvent):
                cancel.set()

    with pytest.raises(ExecutionCancelledError):
        driven.do(go)
    assert image(driven.run(SHORT)) == image(expected["short"])
    assert driven.pid == pid


def test_what_is_cancelled_while_it_waits(driven: Driven) -> None:
    async def go() -> None:
        busy, waiting = asyncio.Event(), asyncio.Event()
        async with aclosing(driven.executor.run(ENDLESS, busy)) as events:
            await anext(events)
            task = asyncio.create_task(run_to_error(driven, SHORT, waiting))
            await asyncio.sleep(0)
            waiting.set()
            assert isinstance(await task, ExecutionCancelledError)
            busy.set()
            with pytest.raises(ExecutionCancelledError):
                async for _ in events:
                    pass

    driven.do(go)


async def run_to_error(driven: Driven, of: Work, cancel: asyncio.Event) -> Exception | None:
    try:
        async for _ in driven.executor.run(of, cancel):
            pass
    except Exception as error:
        return error
    return None


def test_whose_reader_leaves(driven: Driven, expected: dict[str, list[ExecutorEvent]]) -> None:
    """The worker stops, is the same afterwards, and tells the next reader nothing of it."""
    pid = driven.pid

    async def go() -> None:
        async with aclosing(driven.executor.run(ENDLESS, asyncio.Event())) as events:
            await anext(events)

    driven.do(go)
    assert told(driven.run(SHORT)) == told(expected["short"])
    assert driven.pid == pid


def test_a_segmentation(driven: Driven) -> None:
    (event,) = driven.run(
        SegmentationRequest(content=pictures.content(), segmentation=Boxes((Box(1, 20, 10, 70, 60),)))
    )
    assert isinstance(event, SegmentedEvent)


def test_an_evaluation(driven: Driven) -> None:
    (event,) = driven.run(
        EvaluationRequest(
            content=pictures.content(),
            label_map=pictures.label_map(),
            segments=SHORT.segments,
            result=pictures.content(),
            encoder="embedded",
        )
    )
    assert isinstance(event, EvaluatedEvent)


def test_errors_cross_as_they_are(driven: Driven, expected: dict[str, list[ExecutorEvent]]) -> None:
    error = driven.fails(InvalidInputError, replace(SHORT, content=b"no picture"))
    assert error.field == "content.data"
    assert "torchvision" in str(driven.fails(WeightsUnavailableError, replace(SHORT, encoder="torchvision")))
    assert image(driven.run(SHORT)) == image(expected["short"])


def test_a_dead_workers_run_fails_and_the_next_is_served(
    driven: Driven, expected: dict[str, list[ExecutorEvent]]
) -> None:
    before = driven.pid

    async def go() -> None:
        async for event in driven.executor.run(ENDLESS, asyncio.Event()):
            if isinstance(event, ProgressEvent) and alive(before):
                driven.kill()

    with pytest.raises(WorkerDiedError):
        driven.do(go)
    assert driven.ready[-1] is False
    assert image(driven.run(SHORT)) == image(expected["short"])
    assert driven.ready[-1] is True
    assert driven.pid != before
    (worker,) = driven.executor.workers()
    assert worker.restarts > 0


def test_an_idle_worker_that_dies_is_replaced(driven: Driven, expected: dict[str, list[ExecutorEvent]]) -> None:
    before = driven.pid
    driven.kill()
    eventually(lambda: not alive(before), "it to die")

    async def noticed() -> None:
        while driven.ready[-1]:  # noqa: ASYNC110  # a list has nothing to wait for
            await asyncio.sleep(0.01)

    driven.do(noticed)
    assert image(driven.run(SHORT)) == image(expected["short"])


def test_a_killed_workers_job_goes_on(driven: Driven, expected: dict[str, list[ExecutorEvent]], path: Path) -> None:
    of, whole = request(), expected["whole"]
    assert of_kind(TransferWarning, whole)
    attempts = []
    for place in (step_of("vanilla", 6), step_of("segment 2", 4)):
        attempts.append(driven.run(of, path, until=both(place, path), then=driven.kill))
        part_of(path).write_bytes(b"half of one")
    attempts.append(driven.run(of, path))
    assert not of_kind(ResumedEvent, attempts[0])
    for after in attempts[1:]:
        resumed, started = after[:2]
        assert isinstance(resumed, ResumedEvent)
        assert isinstance(started, StageStarted)
        assert started.stage == resumed.stage
        assert not of_kind(TransferWarning, after)
        # Each attempt's steps are the unbroken run's, from where it was taken up.
        at = [(stage, step) for stage, step, *_ in told(whole)].index((resumed.stage, resumed.step))
        assert told(after) == told(whole)[at + 1 :][: len(told(after))]
    assert image(attempts[-1]) == image(whole)
    assert summaries(attempts[-1]) == summaries(whole)
    assert beside(path) == ["job"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_worker_and_what_it_finds(driven: Driven, path: Path) -> None:
    """Cancelled, it leaves its last checkpoint; another request's is passed over; whole jobs alone teach speeds."""

    def speeds() -> Any:
        info = driven.executor.info()
        assert info is not None
        return info.speeds

    events = driven.run(request(), path, until=both(step_of("segment 1", 4), path), then=asyncio.Event.set)
    assert not of_kind(ResultEvent, events)
    assert beside(path) == ["job"]
    before = speeds()
    assert of_kind(ResumedEvent, driven.run(request(), path))
    assert speeds() == before
    other = driven.run(request(seed=1), path)
    assert not of_kind(ResumedEvent, other)
    assert len(told(other)) == 4 * STEPS
    assert speeds() != before
