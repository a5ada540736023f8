"""What the trust benchmark makes of what it has seen."""

from __future__ import annotations

import math

import pytest
from intarsia.v1 import style_transfer_pb2 as pb

from bench.trust import kill_server, kill_worker, loop_lag
from bench.trust.jobs import START, Seen, Unbroken, percentile

PLACES = {START: 0, ("a", 1): 1, ("a", 2): 2, ("b", 1): 3, ("b", 2): 4}
JOB = Unbroken(pb.StylizeRequest(), b"picture", PLACES, 4.0, [1.0])


@pytest.mark.parametrize(
    ("place", "redone", "seconds"),
    [(("b", 1), 0, 0.0), (("a", 2), 1, 1.0), (("a", 1), 2, 2.0), (START, 3, 3.0)],
)
def test_work_that_is_redone(place: tuple[str, int], redone: int, seconds: float) -> None:
    steps = [(step, float(number)) for step, number in PLACES.items() if 1 <= number <= 3]
    seen = Seen("id", steps=steps, stages=[0.0, 2.5], resumed=[(place, len(steps))])
    assert JOB.redone(seen) == (redone, seconds)


def test_nothing_is_redone_before_the_first_step() -> None:
    assert JOB.redone(Seen("id", resumed=[(START, 0)])) == (0, 0.0)


def whole(request_id: str, **fields: object) -> Seen:
    return Seen(request_id, **{"image": b"picture", "completed": 1, "sequences": [1, 2, 9]} | fields)  # type: ignore[arg-type]


def test_a_job_that_is_not_whole() -> None:
    assert whole("id").whole
    for fields in ({"image": b""}, {"error": "INTERNAL"}, {"completed": 2}, {"sequences": [1, 2, 2]}):
        assert not whole("id", **fields).whole


def test_killed_workers_that_do_harm() -> None:
    hits = [
        kill_worker.Hit(whole("1"), same=True, redone=3, seconds=0.1),
        kill_worker.Hit(whole("2"), same=False, redone=40, seconds=4.0),
        kill_worker.Hit(whole("3", error="lost"), same=False, redone=0, seconds=0.0),
    ]
    unfinished, changed, redone = kill_worker.report_of(hits, step=0.1).figures
    assert (unfinished.measured, changed.measured, redone.measured) == (1, 2, 4.0)
    assert not redone.reached


def test_killed_servers_that_do_harm() -> None:
    survivors = [
        kill_server.Survivor(whole("once"), same=True, stored=True),
        kill_server.Survivor(whole("twice"), same=True, stored=False),
        kill_server.Survivor(whole("lost", error="NOT_FOUND"), same=False, stored=False),
    ]
    good = pb.JOB_STATE_SUCCEEDED
    listed = [pb.Job(request_id=name, state=good) for name in ("once", "twice", "twice")]
    figures = kill_server.report_of(survivors, listed, kills=1).figures
    assert [figure.measured for figure in figures] == [1, 1, 1, 2]


def test_percentiles() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile(range(1, 101), 0.5) == 50
    assert percentile([5.0], 0.99) == 5.0


def test_lag_is_not_made_smaller_than_it_was() -> None:
    buckets = {0.01: 950.0, 0.02: 989.0, 0.05: 1000.0, math.inf: 1000.0}
    report = loop_lag.report_of(buckets, {"watch": 3})
    assert report.figures[0].measured == 0.05
    assert not report.figures[0].reached
    assert report.facts["lag"]["<= 0.02 s"] == 39
    assert loop_lag.report_of({**buckets, 0.02: 990.0}, {}).figures[0].reached is True
