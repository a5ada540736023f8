"""Jobs per minute with one and two workers, as processes and as actors of a Ray cluster: `python -m bench.executors`.

All executors live side by side, and their rounds take turns, so that whatever else the machine does meets them alike.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from intarsia_server.engine.parameters import MaskedGramParameters
from intarsia_server.engine.request import TransferRequest
from intarsia_server.executors.base import ResultEvent
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.pool import PoolExecutor
from intarsia_server.executors.ray import RayExecutor
from intarsia_server.settings import Settings
from intarsia_server.workers import worker_configs

from bench.example import example_request

ROUNDS = 5
JOBS = 4
"""Of a round."""

SIZES = {"64 px, 1 step": (64, 1), "128 px, 20 steps": (128, 20)}
"""Longer side, and steps."""


@dataclass(frozen=True)
class Arrangement:
    """Workers that jobs are given to, so many at a time."""

    name: str
    executor: PoolExecutor
    at_a_time: int


def configs(workers: int, threads: int) -> list[WorkerConfig]:
    """Of CPU workers, on cores of their own where there are enough."""
    settings: dict[str, Any] = {"devices": ["cpu"] * workers, "threads": threads, "log_level": "ERROR"}
    return worker_configs(Settings(**settings))


def a_request(side: int, steps: int) -> TransferRequest:
    """The packaged example in small."""
    return replace(example_request(side), parameters=MaskedGramParameters(steps=steps, coarse_steps=0))


async def round_seconds(arrangement: Arrangement, request: TransferRequest) -> float:
    """What `JOBS` of that request take."""
    left = iter(range(JOBS))

    async def work() -> None:
        for _ in left:
            events = [event async for event in arrangement.executor.run(request, asyncio.Event())]
            assert isinstance(events[-1], ResultEvent)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(arrangement.at_a_time)))
    return time.perf_counter() - began


async def measure(arrangements: Sequence[Arrangement]) -> None:
    """Prints a table, a row for each size and arrangement."""
    print(f"load average before: {os.getloadavg()[0]:.1f}, {ROUNDS} rounds of {JOBS} jobs each, in turns")
    print("| job | workers | jobs per minute, median | from | to |\n|---|---|---|---|---|")
    for label, (side, steps) in SIZES.items():
        request = a_request(side, steps)
        seconds: dict[str, list[float]] = {arrangement.name: [] for arrangement in arrangements}
        for number in range(ROUNDS + 1):
            for arrangement in arrangements:
                taken = await round_seconds(arrangement, request)
                if number:  # the first fills caches
                    seconds[arrangement.name].append(taken)
        for name, taken_all in seconds.items():
            rates = sorted(60 * JOBS / taken for taken in taken_all)
            print(
                f"| {label} | {name} | {statistics.median(rates):.1f} | {rates[0]:.1f} | {rates[-1]:.1f} |", flush=True
            )
        local, ray = (seconds[arrangement.name] for arrangement in arrangements[:2])
        more = statistics.median((there - here) / JOBS for here, there in zip(local, ray, strict=True))
        print(f"| {label} | Ray's part of a job, with one worker | {1000 * more:.0f} ms | | |", flush=True)


async def main() -> None:
    """Starts the executors, measures and ends them."""
    local, threaded = LocalExecutor(configs(2, 1)), LocalExecutor(configs(1, 2))
    ray = RayExecutor(configs(2, 1), address="", namespace="bench")
    executors = (local, threaded, ray)
    try:
        for executor in executors:
            await executor.start(lambda _: None)
        await measure(
            [
                Arrangement("1 process of 1 thread", local, 1),
                Arrangement("1 actor of 1 thread", ray, 1),
                Arrangement("2 processes of 1 thread", local, 2),
                Arrangement("2 actors of 1 thread", ray, 2),
                Arrangement("1 process of 2 threads", threaded, 1),
            ]
        )
    finally:
        for executor in executors:
            await executor.stop()


if __name__ == "__main__":
    asyncio.run(main())
