"""An executor that does what a test tells it, and requests for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from intarsia_server.engine.parameters import MaskedGramParameters
from intarsia_server.engine.request import (
    ImageFormat,
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Start,
    TransferRequest,
    Work,
)
from intarsia_server.engine.stages import StageStarted
from intarsia_server.executors.base import (
    ExecutionCancelledError,
    Executor,
    ExecutorEvent,
    ExecutorInfo,
    ProgressEvent,
    ResultEvent,
)


class ScriptedExecutor(Executor):
    """Holds each transfer, which it knows by its seed, until the test lets it go or fails it."""

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.begun: list[int] = []
        self.checkpoints: list[Path | None] = []
        self.costs: list[float] = []
        self.ended: list[int] = []
        self.most_at_once = 0
        self.failures: dict[int, Exception] = {}
        self.fail_before_cancel = False
        self._once: set[int] = set()
        self._gates: dict[int, asyncio.Event] = defaultdict(asyncio.Event)

    def let_go(self, *seeds: int) -> None:
        for seed in seeds:
            self._gates[seed].set()

    def may_go(self, seed: int) -> bool:
        return self._gates[seed].is_set()

    def fail_once(self, seed: int) -> None:
        """The run at work fails; the next one waits again."""
        self._gates.pop(seed).set()
        self._once.add(seed)

    async def start(self, on_ready: Callable[[bool], None]) -> None:
        on_ready(True)

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None = None, *, cost: float = 0.0
    ) -> AsyncGenerator[ExecutorEvent, None]:
        assert isinstance(request, TransferRequest)
        self.checkpoints.append(checkpoint)
        self.costs.append(cost)
        self.begun.append(request.seed)
        self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
        try:
            yield StageStarted("masked gram", 0, 1, 1)
            waits = [asyncio.create_task(event.wait()) for event in (self._gates[request.seed], cancel)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if cancel.is_set() and not self.fail_before_cancel:
                raise ExecutionCancelledError
            if request.seed in self.failures:
                once = request.seed in self._once
                raise self.failures.pop(request.seed) if once else self.failures[request.seed]
            yield ProgressEvent("masked gram", 1, 1, (("content", None, 1.0),), 1.0, 1.0, None)
            yield ResultEvent(b"picture", ImageFormat.PNG, 96, 64, ())
        finally:
            self.ended.append(request.seed)

    def info(self) -> ExecutorInfo | None:
        return None

    async def started(self) -> ExecutorInfo:
        raise NotImplementedError("it runs on nothing")

    async def stop(self) -> None:
        """Nothing to end."""


def transfer_request(seed: int) -> TransferRequest:
    return TransferRequest(
        content=b"",
        segmentation=LabelMapSource(b""),
        segments=(),
        parameters=MaskedGramParameters(),
        paper=False,
        optimization=Optimization(
            optimizer=Optimizer.LBFGS, learning_rate=0.02, history=10, start=Start.CONTENT, start_image=None
        ),
        output=Output(size=None, format=ImageFormat.PNG, quality=92),
        seed=seed,
        encoder="embedded",
        precision=Precision.FP32,
        preview_interval=0,
    )
