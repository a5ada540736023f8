"""What the clock counts, and when a contender has arrived."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from bench import clock
from bench.clock import Move, clocked, duration, race, timed


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only moves when a test says so."""
    moment = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: moment[0])
    return moment


def moves(now: list[float], totals: list[float], images: list[float]) -> Iterator[Move]:
    for total, value in zip(totals, images, strict=True):
        now[0] += 1.0
        yield Move(total, torch.tensor(value))


def test_judging_is_not_on_the_clock(now: list[float]) -> None:
    spent = []
    for seconds, _ in clocked(moves(now, [0.0] * 3, [0.0] * 3)):
        now[0] += 100.0
        spent.append(seconds)
    assert spent == [1.0, 2.0, 3.0]


def test_the_judge_decides_and_not_the_contender(now: list[float]) -> None:
    judged: list[float] = []

    def judge(image: torch.Tensor) -> float:
        judged.append(float(image))
        return float(image)

    # Its own objective says 1.0 from the third step on, the judge not before the sixth.
    found = race(moves(now, [9, 8, 1, 1, 1, 1, 1], [9, 8, 5, 4, 3, 1, 0.5]), judge, target=1.0)

    assert (found.steps, found.seconds) == (6, 6.0)
    assert judged == [9, 8, 5, 4, 3, 1]
    assert found.curve[-1] == (6.0, 1.0)


def test_far_from_the_target_few_steps_are_judged(now: list[float]) -> None:
    found = race(moves(now, [9.0] * 9, [9.0] * 9), float, target=1.0)
    assert (found.steps, found.seconds) == (None, 9.0)
    assert [seconds for seconds, _ in found.curve] == [1.0, 2.0, 4.0, 8.0]


def test_durations(now: list[float]) -> None:
    work = moves(now, [0.0] * 5, [0.0] * 5)
    assert (duration(work, 2), duration(work)) == (2.0, 3.0)
    assert timed(lambda: "done") == (0.0, "done")
