"""Learning how fast a device is."""

from __future__ import annotations

import random

import pytest
from intarsia_server.engine.cost.speed import REMEMBERED, Point, Speedometer, fit_line, weighted_median


def line(flops: float) -> Point:
    """Of a device with 0.01 s a step and 200 GFLOP/s."""
    return Point(flops, 0.01 + flops / 2e11)


CALIBRATION = (line(6e9), line(4e10))


def test_two_points_make_a_line() -> None:
    assert fit_line(CALIBRATION) == pytest.approx((0.01, 5e-12))


def test_a_third_of_nonsense_is_outvoted() -> None:
    points = [line(flops * 1e10) for flops in (1, 2, 4, 8, 16, 32)]
    points += [Point(5e10, 40.0), Point(2e11, 90.0)]
    assert fit_line(points) == pytest.approx((0.01, 5e-12), rel=0.2)


def test_jobs_of_nearly_one_size_do_not_tilt_it() -> None:
    noise = random.Random(0)
    points = [Point(3e11 * (1 + 0.001 * n), line(3e11).seconds * noise.uniform(0.9, 1.1)) for n in range(10)]
    per_step, per_flop = fit_line((*CALIBRATION, *points))
    assert per_step + 3e11 * per_flop == pytest.approx(line(3e11).seconds, rel=0.1)
    assert per_step + 6e9 * per_flop == pytest.approx(line(6e9).seconds, rel=0.5)


@pytest.mark.parametrize(
    "points",
    [
        [Point(1e9, 1.0), Point(2e9, 0.5)],  # the larger one was faster
        [Point(1e9, 0.1), Point(2e9, 1.0)],  # would be negative at no work
        [Point(1e9, 0.5)],
        [Point(1e9, 0.4), Point(1e9, 0.6)],
    ],
)
def test_nothing_is_ever_negative_or_free(points: list[Point]) -> None:
    per_step, per_flop = fit_line(points)
    assert per_step >= 0
    assert per_flop > 0
    assert 0.1 <= per_step + 1.5e9 * per_flop <= 1.5


def test_the_weighted_median() -> None:
    assert weighted_median([(3, 1), (1, 1), (2, 1)]) == 2
    assert weighted_median([(3, 5), (1, 1), (2, 1)]) == 3


def test_it_learns_and_forgets() -> None:
    meter = Speedometer(CALIBRATION, 1e-8)
    slower = [Point(flops, 2 * line(flops).seconds) for flops in (8e10, 3e11)]
    for point in slower * REMEMBERED:
        meter.learn_step(point)
    slow = meter.speed
    assert slow.seconds_per_step + 3e11 * slow.seconds_per_flop == pytest.approx(slower[1].seconds, rel=0.05)
    for point in (line(8e10), line(3e11)) * (REMEMBERED // 2):
        meter.learn_step(point)
    assert (meter.speed.seconds_per_step, meter.speed.seconds_per_flop) == pytest.approx((0.01, 5e-12))


def test_one_stalled_job_changes_little() -> None:
    meter = Speedometer(CALIBRATION, 1e-8)
    for flops in (8e10, 3e11, 8e10, 3e11):
        meter.learn_step(line(flops))
        meter.learn_preparation(1e6, 0.02)
    before = meter.speed
    meter.learn_step(Point(3e11, 60.0))
    meter.learn_preparation(1e6, 60.0)
    assert meter.speed.seconds_per_flop == pytest.approx(before.seconds_per_flop)
    assert meter.speed.seconds_per_pixel == pytest.approx(before.seconds_per_pixel) == 2e-8
