"""Limits and deadlines, without a server."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from intarsia_server.engine.request import Until
from intarsia_server.jobs.admission import Admission, DeadlineError, Limits, QueueFullError, QuotaError
from intarsia_server.jobs.forecast import Forecast, least_seconds
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.queue import FairQueue
from intarsia_server.jobs.record import JobState
from scripted_executor import transfer_request


class Yard:
    """An admission with jobs that the test puts there."""

    def __init__(self, *, slots: int = 1, waiting: int = 3, memory: int = 0, per_client: int = 0) -> None:
        self.queue, self.jobs = FairQueue(), list[Job]()
        limits = Limits(waiting=waiting, memory=memory, per_client=per_client)
        self.refused = list[tuple[str, Exception]]()
        self.admission = Admission(
            limits,
            slots=slots,
            queue=self.queue,
            jobs=lambda: self.jobs,
            on_refused=lambda client, error: self.refused.append((client, error)),
        )

    def add(self, client: str = "a", *, seconds: float | None = 10.0, memory: int = 0, ran: float | None = None) -> Job:
        job = Job("job", "request", transfer_request(0), (96, 64), client=client, memory=memory, seconds=seconds)
        self.jobs.append(job)
        if ran is None:
            self.queue.append(job)
        else:
            job.state, job.started_at = JobState.RUNNING, time.monotonic() - ran
        return job

    def expect(self, forecast: Forecast, *, client: str = "b", left: float | None = None) -> None:
        with self.admission.enter(client) as place:
            place.expect(forecast, None if left is None else time.monotonic() + left)


def forecast(seconds: float, memory: int = 0) -> Forecast:
    return Forecast(seconds, memory, seconds)


def test_requests_that_are_looked_at_take_places() -> None:
    yard = Yard(waiting=1)
    with yard.admission.enter("a"), yard.admission.enter("b"), pytest.raises(QueueFullError):
        yard.admission.enter("c")
    yard.admission.enter("c")


def test_retry_is_told_by_the_job_that_ends_first() -> None:
    yard = Yard(slots=2, waiting=0)
    yard.add(seconds=100, ran=60)
    yard.add(seconds=100, ran=20)
    with pytest.raises(QueueFullError) as raised:
        yard.admission.enter("a")
    assert raised.value.retry_seconds == pytest.approx(40, abs=1)


def test_retry_is_never_at_once() -> None:
    yard = Yard(waiting=0)
    yard.add(seconds=1, ran=60)
    with pytest.raises(QueueFullError) as raised:
        yard.admission.enter("a")
    assert 0 < raised.value.retry_seconds < 1


def test_a_client_has_its_quota() -> None:
    yard = Yard(waiting=10, per_client=2)
    yard.add("a", ran=1)
    with yard.admission.enter("a"), pytest.raises(QuotaError, match="2 jobs"):
        yard.admission.enter("a")
    yard.add("a")
    with pytest.raises(QuotaError):
        yard.admission.enter("a")
    yard.admission.enter("b")


def test_memory_of_the_jobs_that_wait() -> None:
    yard = Yard(waiting=10, memory=100)
    yard.add(memory=1000, ran=1)
    yard.expect(forecast(1, memory=500))  # alone
    yard.add(memory=60)
    yard.expect(forecast(1, memory=40))
    with pytest.raises(QueueFullError, match="memory"):
        yard.expect(forecast(1, memory=41))
    with yard.admission.enter("a") as other:
        other.expect(forecast(1, memory=30))
        with pytest.raises(QueueFullError, match="memory"):
            yard.expect(forecast(1, memory=11))
    yard.add(memory=40)
    with pytest.raises(QueueFullError, match="memory"):
        yard.admission.enter("a")


def test_a_job_that_need_not_wait_needs_no_memory() -> None:
    yard = Yard(slots=2, waiting=10, memory=100)
    yard.add(memory=1000, ran=1)
    yard.expect(forecast(1, memory=5000))


def test_a_request_that_is_looked_at_and_will_not_wait_takes_no_memory_from_others() -> None:
    yard = Yard(waiting=10, memory=100)
    with yard.admission.enter("a") as first:
        first.expect(forecast(1, memory=60))
        yard.expect(forecast(1, memory=60))


@pytest.mark.parametrize(("left", "refused"), [(31, False), (30.1, False), (29.9, True), (0, True)])
def test_deadline_by_wait_and_work(left: float, refused: bool) -> None:
    """Three quarters of 20 s in the queue and of 20 s of work."""
    yard = Yard(waiting=10)
    yard.add(seconds=20, ran=10)
    yard.add(seconds=10)
    if not refused:
        yard.expect(forecast(20), left=left)
        return
    with pytest.raises(DeadlineError, match=r"would take 40\.\d s \(20\.\d s"):
        yard.expect(forecast(20), left=left)


def test_no_deadline_is_never_missed() -> None:
    yard = Yard(waiting=10)
    yard.add(seconds=1e6, ran=0)
    yard.expect(forecast(1e6))


def test_deadline_counts_only_jobs_that_have_their_turn_before() -> None:
    yard = Yard(waiting=10)
    yard.add("a", seconds=10, ran=10)
    for _ in range(5):
        yard.add("a", seconds=100)
    yard.expect(forecast(5), client="b", left=110)
    with pytest.raises(DeadlineError):
        yard.expect(forecast(5), client="a", left=110)


def test_what_is_not_known_refuses_nobody() -> None:
    yard = Yard(waiting=10)
    yard.add(seconds=None, ran=1)
    yard.expect(Forecast(), left=0.5)
    work = transfer_request(0)
    until_converged = replace(work, optimization=replace(work.optimization, until=Until.CONVERGED))
    assert least_seconds(work, 5.0) == 5.0
    assert least_seconds(work, None) == least_seconds(until_converged, 5.0) == 0.0


def test_every_refusal_is_told() -> None:
    yard = Yard(waiting=1, memory=100, per_client=1)
    yard.add("a", seconds=50, memory=50)
    for client, asked in (("b", forecast(1, memory=60)), ("b", forecast(100)), ("a", forecast(1))):
        with pytest.raises((QueueFullError, DeadlineError)) as raised:
            yard.expect(asked, client=client, left=10)
        assert yard.refused.pop() == (client, raised.value)
    yard.add("c")
    with pytest.raises(QueueFullError):
        yard.admission.enter("b")
    assert len(yard.refused) == 1


def test_questions_take_no_jobs_place_and_are_bounded() -> None:
    yard = Yard(waiting=1, per_client=1)
    with yard.admission.ask("a"):
        with pytest.raises(QuotaError):
            yard.admission.ask("a")
        with yard.admission.ask("b"), pytest.raises(QueueFullError):
            yard.admission.ask("c")
        yard.admission.enter("a")
