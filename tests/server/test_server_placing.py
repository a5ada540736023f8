"""Which worker takes which job, and which cores each has."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from executor_driving import CONFIG
from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.device_info import DeviceInfo
from intarsia_server.engine.request import ImageFormat, Precision, TransferRequest, Work
from intarsia_server.executors.base import (
    ExecutionCancelledError,
    ExecutorEvent,
    ExecutorInfo,
    ResultEvent,
    WorkerStatus,
)
from intarsia_server.executors.handle import WorkerHandle
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.messages import RunCommand, WorkerConfig
from intarsia_server.executors.pool import OnExit, PoolExecutor
from intarsia_server.settings import Settings
from intarsia_server.workers import worker_configs
from scripted_executor import transfer_request


class FakeWorker(WorkerHandle):
    """Notes which seeds it is given, and works on each until it is told."""

    def __init__(self, config: WorkerConfig, seconds_per_flop: float, on_exit: OnExit) -> None:
        super().__init__(config, on_exit)
        speed = Speed(0.0, seconds_per_flop, 0.0)
        self.known = ExecutorInfo(
            devices=(DeviceInfo(config.device, "", 0, 1),),
            ops="",
            default_precision=Precision.FP32,
            speeds={Precision.FP32: speed},
            idle_memory=0,
        )
        self.seeds: list[int] = []
        self.go_on = asyncio.Event()

    @property
    def alive(self) -> bool:
        return True

    async def start(self) -> None:
        self.info = self.known

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None
    ) -> AsyncGenerator[ExecutorEvent, None]:
        assert isinstance(request, TransferRequest)
        assert checkpoint is None
        assert not cancel.is_set()
        self.seeds.append(request.seed)
        await self.go_on.wait()
        self.go_on.clear()
        yield ResultEvent(b"", ImageFormat.PNG, 1, 1, ())

    async def _open(self) -> None:
        raise NotImplementedError

    async def _send(self, command: RunCommand) -> None:
        raise NotImplementedError

    def _cancel(self, serial: int) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Nothing to end."""

    def status(self) -> WorkerStatus:
        return WorkerStatus(self.config.device, None, 0, 0, 0)


class FakePool(PoolExecutor):
    def __init__(self, speeds: Sequence[float]) -> None:
        super().__init__([partial(FakeWorker, CONFIG, speed) for speed in speeds])

    @property
    def fakes(self) -> list[FakeWorker]:
        return [worker for worker in self._workers if isinstance(worker, FakeWorker)]


async def begun(executor: FakePool, seed: int, cost: float, cancel: asyncio.Event | None = None) -> None:
    async for _ in executor.run(transfer_request(seed), cancel or asyncio.Event(), cost=cost):
        pass


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_dearest_job_has_the_fastest_worker() -> None:
    async def go() -> None:
        executor = FakePool([3e-12, 1e-12, 2e-12])
        await executor.start(lambda _: None)
        slow, fast, middling = executor.fakes
        jobs = [asyncio.create_task(begun(executor, seed, cost)) for seed, cost in ((1, 5.0), (2, 1.0), (3, 9.0))]
        await settle()
        assert (fast.seeds, middling.seeds, slow.seeds) == ([3], [1], [2])
        # With all of them at work, whoever is done first takes what waits, the dearest first.
        jobs += [asyncio.create_task(begun(executor, seed, cost)) for seed, cost in ((4, 1.0), (5, 8.0))]
        slow.go_on.set()
        await settle()
        assert slow.seeds == [2, 5]
        fast.go_on.set()
        await settle()
        assert fast.seeds == [3, 4]
        for worker in executor.fakes:
            worker.go_on.set()
        await asyncio.gather(*jobs)
        # And what comes alone does not wait for company.
        jobs = [asyncio.create_task(begun(executor, 6, 0.0))]
        await settle()
        assert fast.seeds == [3, 4, 6]
        fast.go_on.set()
        await asyncio.gather(*jobs)

    asyncio.run(go())


def test_whoever_waits_and_is_cancelled_takes_no_worker() -> None:
    async def go() -> None:
        executor = FakePool([1e-12])
        await executor.start(lambda _: None)
        (worker,) = executor.fakes
        cancel = asyncio.Event()
        first = asyncio.create_task(begun(executor, 1, 1.0))
        await settle()
        second = asyncio.create_task(begun(executor, 2, 1.0, cancel))
        third = asyncio.create_task(begun(executor, 3, 1.0))
        await settle()
        cancel.set()
        with pytest.raises(ExecutionCancelledError):
            await second
        worker.go_on.set()
        await first
        await settle()
        assert worker.seeds == [1, 3]
        worker.go_on.set()
        await third

    asyncio.run(go())


def cores_of(devices: list[str], cores: int, monkeypatch: pytest.MonkeyPatch, threads: int = 0) -> list[object]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    return [(config.threads, config.cores) for config in worker_configs(Settings(devices=devices, threads=threads))]


def test_cpu_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores_of(["cpu"], 4, monkeypatch) == [(4, ())]
    assert cores_of(["cpu", "cpu"], 4, monkeypatch) == [(2, (0, 1)), (2, (2, 3))]
    assert cores_of(["cuda:0", "cpu", "cpu"], 5, monkeypatch)[1:] == [(2, (0, 1)), (2, (2, 3))]
    assert cores_of(["cpu", "cpu"], 4, monkeypatch, threads=1) == [(1, (0,)), (1, (1,))]
    # Too few for each to have its own.
    assert cores_of(["cpu"] * 3, 2, monkeypatch) == [(1, ())] * 3
    assert cores_of(["cpu", "cpu"], 4, monkeypatch, threads=3) == [(3, ())] * 2


def test_a_worker_stays_on_its_cores() -> None:
    core = max(os.sched_getaffinity(0))

    async def go() -> None:
        executor = LocalExecutor([replace(CONFIG, cores=(core,))])
        await executor.start(lambda _: None)
        (worker,) = executor.workers()
        try:
            assert worker.pid is not None
            assert os.sched_getaffinity(worker.pid) == {core}
        finally:
            await executor.stop()

    asyncio.run(go())
