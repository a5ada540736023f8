"""A stage's steps on its device: one at a time on a CPU; as a CUDA graph, one step ahead of the host, on a GPU."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from intarsia_server.engine.optimizers import Evaluate, Losses, StepOptimizer

log = logging.getLogger(__name__)

WARM_UP = 2
"""Steps that run call by call before a graph is captured: the first allocates state and loads kernels."""


@dataclass(frozen=True)
class Taken:
    """A step's losses; and those of the next one, if it has been taken too, or is just being taken and waited for."""

    losses: Losses
    ahead: Callable[[], Losses] | None = None


def run_steps(
    optimizer: StepOptimizer, evaluate: Evaluate, count: int, ahead: Losses | None = None, *, graphed: bool = True
) -> Generator[Taken, None, None]:
    """Takes `count` steps, and yields each one's losses.

    On a GPU the next step already runs when a step's losses are yielded, so that it never waits for whoever reads them:
    `optimizer.image` is then of that next step. What ends early has taken one step more than it was told of.

    Args:
        optimizer: that takes them.
        evaluate: the objective.
        count: of steps, 1 or more.
        ahead: losses of the first of them, if the optimizer's state is already beyond it.
        graphed: whether a GPU may take a step as one graph; not one that polls, or copies masks from the host.
    """
    left = count if ahead is None else count - 1
    if not optimizer.image.is_cuda:
        if ahead is not None:
            yield Taken(ahead)
        for _ in range(left):
            yield Taken(optimizer.step(evaluate))
        return
    device = optimizer.image.device
    step = GraphedStep(lambda: optimizer.step(evaluate), device, warm_up=WARM_UP if graphed else count)
    try:
        running: Callable[[], Losses] | None = None if ahead is None else itertools.repeat(ahead).__next__
        for _ in range(left):
            following = _copied(step(), device)
            if running is not None:
                yield Taken(running(), following)
            running = following
        if running is not None:
            yield Taken(running())
    finally:
        step.release()


class GraphedStep:
    """A step on a GPU: call by call at first, then captured as a CUDA graph and replayed.

    Args:
        step: enqueues work that asks the host nothing and writes its state in place.
        device: it runs on.
        warm_up: steps before that.
    """

    def __init__(self, step: Callable[[], Losses], device: torch.device, *, warm_up: int = WARM_UP) -> None:
        self._step = step
        self._warm_up = warm_up
        self._device = device
        self._taken = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._losses: Losses | None = None

    @property
    def captured(self) -> bool:
        """Whether there is a graph."""
        return self._graph is not None

    def __call__(self) -> Losses:
        """Enqueues a step; the next one overwrites its losses."""
        with torch.cuda.device(self._device):
            if self._taken == self._warm_up:
                self._capture()
            self._taken += 1
            if self._graph is None or self._losses is None:
                return self._step()
            self._graph.replay()
            return self._losses

    def release(self) -> None:
        """Gives the graph's memory back."""
        if self._graph is None:
            return
        # Its memory may still be in use; freed, it belongs to no one until the cache is emptied.
        torch.cuda.synchronize(self._device)
        self._graph = self._losses = None
        torch.cuda.empty_cache()

    def _capture(self) -> None:
        """Nothing runs here; a step that cannot be captured stays what it was, only slower."""
        graph = torch.cuda.CUDAGraph()
        try:
            # A capture that fails leaves its own stream current.
            with (
                torch.cuda.stream(torch.cuda.current_stream()),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                losses = self._step()
        except RuntimeError as error:
            log.warning("steps run without a CUDA graph: %s", str(error).partition("\n")[0])
            return
        self._graph, self._losses = graph, losses


def _copied(losses: Losses, device: torch.device) -> Callable[[], Losses]:
    """Starts to copy losses to the host; the result waits for them."""
    with torch.cuda.device(device):
        host: Tensor = torch.empty(losses.values.shape, dtype=losses.values.dtype, pin_memory=True)
        host.copy_(losses.values, non_blocking=True)
        # The host sleeps while it waits; it is a step behind, and has nothing to do that could not wait a moment more.
        arrival = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # torch leaves it without types
        arrival.record()

    def read() -> Losses:
        arrival.synchronize()
        return Losses(losses.terms, host)

    return read
