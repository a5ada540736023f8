"""How fast a device is: measured when a worker starts, and learned from every job that it runs."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

REMEMBERED = 16
"""Stages, and preparations, that a speed is learned from: few enough to follow a machine whose load changes."""


class Point(NamedTuple):
    """A step that was timed: its floating point operations, and its seconds."""

    flops: float
    seconds: float


@dataclass(frozen=True)
class Speed:
    """What a device takes at one precision.

    Attributes:
        seconds_per_step: of a step, whatever its size.
        seconds_per_flop: of each floating point operation of the encoder on top of that.
        seconds_per_pixel: to decode one pixel of a picture; `work` counts what else is done to pictures in this unit.
    """

    seconds_per_step: float
    seconds_per_flop: float
    seconds_per_pixel: float


class Speedometer:
    """Learns a device's speed at one precision.

    Args:
        points: steps of at least two sizes, which always count: they tell the part that does not grow with the size.
        seconds_per_pixel: as of `Speed`, until a job's preparation has been seen.
    """

    def __init__(self, points: Sequence[Point], seconds_per_pixel: float) -> None:
        self._calibration = tuple(points)
        self._steps: deque[Point] = deque(maxlen=REMEMBERED)
        self._pixel_seconds: deque[float] = deque([seconds_per_pixel], maxlen=REMEMBERED)

    def learn_step(self, point: Point) -> None:
        """Takes in a stage's usual step."""
        self._steps.append(point)

    def learn_preparation(self, pixels: float, seconds: float) -> None:
        """Takes in what was done outside of stages: its work in pixels, and the time it took."""
        self._pixel_seconds.append(seconds / pixels)

    @property
    def speed(self) -> Speed:
        """By all that is known."""
        per_step, per_flop = fit_line((*self._calibration, *self._steps))
        return Speed(per_step, per_flop, statistics.median(self._pixel_seconds))


def fit_line(points: Sequence[Point]) -> tuple[float, float]:
    """Seconds at no operations, and seconds for each one; neither is negative.

    The weighted median of the slopes between all pairs of points (Theil and Sen; Jaeckel's weights, so that two jobs of
    nearly one size do not tell much): a job that met a busy machine is outvoted, where least squares would follow it.
    """
    pairs = [(a, b) if a.flops < b.flops else (b, a) for a, b in combinations(points, 2) if a.flops != b.flops]
    slope = weighted_median(
        [((b.seconds - a.seconds) / (b.flops - a.flops), b.flops - a.flops) for a, b in pairs] or [(0.0, 1.0)]
    )
    rest = statistics.median(point.seconds - slope * point.flops for point in points)
    if slope > 0 and rest >= 0:
        return rest, slope
    # Noise, or calls that take longer than their arithmetic: the median through the origin is still no nonsense.
    return 0.0, statistics.median(point.seconds / point.flops for point in points)


def weighted_median(values: Iterable[tuple[float, float]]) -> float:
    """The value at which half of the weight lies below; of (value, weight) pairs, at least one."""
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    seen = 0.0
    for value, weight in ordered:
        seen += weight
        if seen >= half:
            return value
    return ordered[-1][0]
