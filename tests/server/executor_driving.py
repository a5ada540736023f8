"""Executors driven directly: a small job for them, and what is to be seen of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import server_pictures as pictures
from intarsia_server.engine.parameters import SequentialParameters
from intarsia_server.engine.request import (
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Segment,
    Start,
    TransferRequest,
    Work,
)
from intarsia_server.executors.base import (
    ExecutionCancelledError,
    Executor,
    ExecutorEvent,
    ProgressEvent,
    ResultEvent,
    WorkerDiedError,
)
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.pool import PoolExecutor
from intarsia_server.executors.ray import RayExecutor

STEPS = 12
CONFIG = WorkerConfig(
    device="cpu",
    threads=1,
    encoder="embedded",
    encoder_files={},
    segmentation_files={},
    allow_download=False,
    max_pixels=1_000_000,
    target_cache_bytes=2**27,
    checkpoint_seconds=0.01,
    log_level="INFO",
    log_format="text",
)


def request(seed: int = 0, *, steps: int = STEPS, preview_interval: int = 0) -> TransferRequest:
    """Four stages, with a warning before the first: the label map is of another size."""
    return TransferRequest(
        content=pictures.content(),
        segmentation=LabelMapSource(pictures.label_map((97, 64))),
        segments=tuple(
            Segment(labels=(label,), style=pictures.style(name)) for label, name in enumerate(pictures.STYLES)
        ),
        parameters=SequentialParameters(steps=steps, smoothing_steps=steps, coarse_steps=0, background=0),
        paper=False,
        optimization=Optimization(optimizer=Optimizer.LBFGS, learning_rate=0.02, history=4, start=Start.NOISE),
        output=Output(),
        seed=seed,
        encoder="embedded",
        precision=Precision.FP32,
        preview_interval=preview_interval,
    )


async def run(
    executor: Executor,
    of: Work,
    checkpoint: Path | None,
    *,
    until: Callable[[ExecutorEvent], bool] = lambda _: False,
    then: Callable[[asyncio.Event], None] = lambda _: None,
) -> list[ExecutorEvent]:
    """Its events; with the first one that is as `until` says, `then` is done."""
    events: list[ExecutorEvent] = []
    is_done = False
    cancel = asyncio.Event()
    with suppress(WorkerDiedError, ExecutionCancelledError):
        async with aclosing(executor.run(of, cancel, checkpoint)) as run:
            async for event in run:
                events.append(event)
                if not is_done and until(event):
                    is_done = True
                    then(cancel)
    return events


def step_of(stage: str, step: int) -> Callable[[ExecutorEvent], bool]:
    return lambda event: isinstance(event, ProgressEvent) and event.stage == stage and event.step >= step


def both(place: Callable[[ExecutorEvent], bool], path: Path) -> Callable[[ExecutorEvent], bool]:
    """There, with a checkpoint on disk."""
    return lambda event: place(event) and path.exists()


def told(events: list[ExecutorEvent]) -> list[tuple[Any, ...]]:
    return [
        (event.stage, event.step, event.losses, event.fraction) for event in events if isinstance(event, ProgressEvent)
    ]


def summaries(events: list[ExecutorEvent]) -> list[tuple[Any, ...]]:
    result = events[-1]
    assert isinstance(result, ResultEvent)
    return [(stage.stage, stage.steps, stage.losses, stage.total) for stage in result.stages]


def of_kind(kind: type, events: list[ExecutorEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


FEW = 3
SHORT = request(steps=FEW, preview_interval=2)
ENDLESS = request(steps=100_000)
"""Runs until it is told to stop."""


def image(events: list[ExecutorEvent]) -> bytes:
    result = events[-1]
    assert isinstance(result, ResultEvent)
    return result.image


def ray_executor(*configs: WorkerConfig) -> RayExecutor:
    """With a cluster of its own."""
    return RayExecutor(configs, address="", namespace="tests")


def local_executor(*configs: WorkerConfig) -> LocalExecutor:
    return LocalExecutor(configs)


MAKE: dict[str, Callable[..., PoolExecutor]] = {"local": local_executor, "ray": ray_executor}
