"""How long the next job would wait."""

from __future__ import annotations

import pytest
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.waiting import expected_wait
from scripted_executor import transfer_request

NOW = 1000.0


def job(seconds: int, *, running_for: float | None = None) -> Job:
    """A job that takes that long, which its seed says."""
    made = Job("job", "request", transfer_request(seconds), (96, 64))
    made.started_at = None if running_for is None else NOW - running_for
    return made


def seconds_of(job: Job) -> float | None:
    return job.request.seed or None  # type: ignore[union-attr]  # a transfer


@pytest.mark.parametrize(
    ("jobs", "slots", "wait"),
    [
        ([], 1, 0),
        ([job(100, running_for=40)], 1, 60),
        ([job(100, running_for=40)], 2, 0),
        ([job(100, running_for=40), job(10), job(20)], 1, 90),
        ([job(100, running_for=40), job(50, running_for=40), job(20)], 2, 30),
        ([job(100, running_for=40), job(50, running_for=40), job(20), job(50)], 2, 60),
        ([job(100, running_for=500), job(7)], 1, 7),
    ],
)
def test_wait(jobs: list[Job], slots: int, wait: float) -> None:
    assert expected_wait(jobs, slots, seconds_of, now=NOW) == pytest.approx(wait)


def test_not_known() -> None:
    assert expected_wait([job(100, running_for=1), job(0)], 1, seconds_of, now=NOW) is None
    assert expected_wait([], 0, seconds_of, now=NOW) is None
