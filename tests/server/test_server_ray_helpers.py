"""Actors that take their share of a large picture's tiles."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import server_pictures as pictures
from executor_driving import CONFIG, both, image, of_kind, request, run, step_of
from intarsia_server.engine.events import TransferWarning
from intarsia_server.engine.parameters import MaskedGramParameters
from intarsia_server.engine.request import LabelMapSource, Precision
from intarsia_server.executors.base import ExecutorEvent, ProgressEvent, ResumedEvent
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.ray import RayExecutor
from server_process import children, command_line

SIZE = (420, 356)
"""Too large for the smallest tile."""

STEPS = 3
LARGE = replace(
    request(),
    content=pictures.content(SIZE),
    segmentation=LabelMapSource(pictures.label_map(SIZE)),
    parameters=MaskedGramParameters(steps=STEPS, coarse_steps=0),
    precision=Precision.BF16,
    optimization=replace(request().optimization, memory_bytes=1),
)


def helpers(of: int) -> Iterator[int]:
    for child in children(of):
        if command_line(child).startswith("ray::HelperActor"):
            yield child
        yield from helpers(child)


def kill_helper(_: asyncio.Event) -> None:
    (pid,) = helpers(os.getpid())
    os.kill(pid, signal.SIGKILL)


def losses(events: list[ExecutorEvent]) -> list[float]:
    return [event.total_loss for event in events if isinstance(event, ProgressEvent)]


def test_a_worker_with_a_helper(tmp_path: Path) -> None:
    path = tmp_path / "job"

    async def alone() -> list[ExecutorEvent]:
        executor = LocalExecutor([CONFIG])
        await executor.start(lambda _: None)
        try:
            return await run(executor, LARGE, None)
        finally:
            await executor.stop()

    async def with_helper() -> tuple[list[ExecutorEvent], ...]:
        executor = RayExecutor([CONFIG], address="", namespace="tests", helpers=1)
        await executor.start(lambda _: None)
        before = speeds(executor)
        try:
            unbroken = await run(executor, LARGE, None)
            # What is done with help says nothing of what a job takes.
            assert speeds(executor) == before
            cancelled = await run(executor, LARGE, None, until=step_of("masked gram", 1), then=asyncio.Event.set)
            small = await run(executor, request(steps=2), None)
            assert speeds(executor) != before
            killed = await run(executor, LARGE, path, until=both(step_of("masked gram", 2), path), then=kill_helper)
            gone_on = await run(executor, LARGE, path)
        finally:
            await executor.stop()
        return unbroken, cancelled, small, killed, gone_on

    def speeds(executor: RayExecutor) -> object:
        info = executor.info()
        assert info is not None
        return info.speeds

    expected = asyncio.run(alone())
    unbroken, cancelled, small, killed, gone_on = asyncio.run(with_helper())
    assert "memory_exceeded" in [event.code for event in of_kind(TransferWarning, unbroken)]
    assert losses(unbroken) == pytest.approx(losses(expected), rel=1e-2)
    difference = pixels(unbroken) - pixels(expected)
    assert np.abs(difference).mean() < 1
    assert 0 < len(losses(cancelled)) < STEPS
    assert image(small)
    assert len(losses(killed)) < STEPS
    assert of_kind(ResumedEvent, gone_on)
    assert image(gone_on) == image(unbroken)


def pixels(events: list[ExecutorEvent]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(pictures.opened(image(events)), dtype=np.float64)
