"""An executor from its making to its end; each has the process for itself, as Ray wants it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from executor_driving import CONFIG, ENDLESS, MAKE, SHORT, image, of_kind, run
from intarsia_server.executors.base import ExecutorInfo, ExecutorStartError, ResultEvent
from intarsia_server.executors.ray import RayExecutor
from server_process import alive, children, command_line, eventually


def descendants(pid: int) -> set[int]:
    """Without the tracker of multiprocessing, which stays with the process."""
    found = {child for child in children(pid) if "resource_tracker" not in command_line(child)}
    return found.union(*(descendants(child) for child in found))


@pytest.mark.parametrize("kind", MAKE)
def test_from_its_making_to_its_end(kind: str) -> None:
    """A run that comes before the start waits for it; a worker that dies as it starts, and the end, leave nothing."""
    before = descendants(os.getpid())

    async def go() -> set[int]:
        executor = MAKE[kind](CONFIG, CONFIG)
        assert executor.info() is None
        assert [worker.pid for worker in executor.workers()] == [None, None]
        early = asyncio.create_task(run(executor, SHORT, None))
        ready: list[bool] = []
        await executor.start(ready.append)
        assert ready == [True]
        assert len({worker.pid for worker in executor.workers()}) == 2
        late = asyncio.create_task(run(executor, SHORT, None))
        assert image(await early) == image(await late)
        of_its_own = descendants(os.getpid()) - before
        assert {worker.pid for worker in executor.workers()} <= of_its_own
        endless = asyncio.create_task(run(executor, ENDLESS, None))
        await asyncio.sleep(0)
        await executor.stop()
        assert not of_kind(ResultEvent, await endless)
        return of_its_own

    for pid in asyncio.run(go()):
        eventually(lambda pid=pid: not alive(pid), "a process of the executor's to end")  # type: ignore[misc]


@pytest.mark.parametrize("kind", MAKE)
def test_what_cannot_start(kind: str, tmp_path: Path) -> None:
    missing = replace(CONFIG, encoder="mine", encoder_files={"mine": tmp_path / "vgg19.pth"})

    async def go() -> None:
        executor = MAKE[kind](missing)
        with pytest.raises(ExecutorStartError, match="mine"):
            await executor.start(lambda _: None)
        await executor.stop()

    asyncio.run(go())


def test_a_gpu_is_asked_for_and_had() -> None:
    """The cluster counts GPUs that it is told of; what the worker then finds is what a local one finds."""

    async def outcome(kind: str) -> object:
        executor = MAKE[kind](replace(CONFIG, device="cuda:0"))
        try:
            await executor.start(lambda _: None)
        except ExecutorStartError as error:
            return str(error)
        finally:
            await executor.stop()
        return executor.info()

    local, ray = (asyncio.run(outcome(kind)) for kind in ("local", "ray"))
    assert type(local) is type(ray)
    assert isinstance(local, ExecutorInfo) or local == ray


def test_no_cluster_at_that_address() -> None:
    async def go() -> None:
        executor = RayExecutor([CONFIG], address="127.0.0.1:1", namespace="tests")
        with pytest.raises(ExecutorStartError, match="no Ray cluster"):
            await executor.start(lambda _: None)
        await executor.stop()

    asyncio.run(go())
