"""Timing: seconds of what is timed alone, and the time that a side takes to an objective."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

from torch import Tensor

T = TypeVar("T")

Judge = Callable[[Tensor], float]
"""The objective of an image that both sides are held to, in fp32."""

NEAR = 1.1
"""How near a contender's own objective has to come to the target before every step is judged."""


class Move(NamedTuple):
    """A step that is done: the contender's own objective, and the image to judge."""

    total: float
    image: Tensor


@dataclass(frozen=True, kw_only=True)
class Race:
    """A contender's way to a target.

    Attributes:
        steps: until the image was judged to be there; None: it never was.
        seconds: for those steps (all steps where it never was), set-up included, judging not.
        curve: (seconds, judged objective) at the steps that were judged.
    """

    steps: int | None
    seconds: float
    curve: tuple[tuple[float, float], ...]


def clocked(work: Iterator[T]) -> Iterator[tuple[float, T]]:
    """Each item with the seconds that all items so far took to make; what the caller does in between is not counted."""
    seconds = 0.0
    while True:
        began = time.perf_counter()
        try:
            item = next(work)
        except StopIteration:
            return
        seconds += time.perf_counter() - began
        yield seconds, item


def race(moves: Iterator[Move], judge: Judge, target: float) -> Race:
    """Runs a contender until the judge finds its image at the target or better, or until it ends.

    Its own objective, which may be computed in a lower precision, only decides which steps are worth judging.
    """
    curve = []
    seconds = 0.0
    for number, (seconds, move) in enumerate(clocked(moves), 1):
        if move.total <= NEAR * target or number & (number - 1) == 0:
            objective = judge(move.image)
            curve.append((seconds, objective))
            if objective <= target:
                return Race(steps=number, seconds=seconds, curve=tuple(curve))
    return Race(steps=None, seconds=seconds, curve=tuple(curve))


def duration(work: Iterator[object], items: int | None = None) -> float:
    """Seconds that the next so many items take together; None: all that are left."""
    began = time.perf_counter()
    for _ in islice(work, items):
        pass
    return time.perf_counter() - began


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Seconds that a call takes, and what it returns."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result
