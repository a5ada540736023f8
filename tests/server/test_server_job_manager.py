"""The job manager on a scripted executor: order, capacity, cancel, drain, failure and positions in the queue."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import replace

import pytest
from intarsia_server.engine.stages import StageStarted
from intarsia_server.executors.base import ResumedEvent, WorkerDiedError
from intarsia_server.jobs.admission import QueueFullError
from intarsia_server.jobs.errors import DrainingError, DuplicateRequestError, JobCancelledError
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, QueuedEvent, StoredResultEvent
from intarsia_server.jobs.manager import MAX_DEATHS
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord, JobState
from job_bench import SIZE, Bench, on_bench, payload_of, settle, until
from scripted_executor import transfer_request


async def positions_of(job: Job) -> list[int]:
    """Positions that a job was told, of one that has ended."""
    positions: list[int] = []
    try:
        async for numbered in job.log.read(heartbeat=60):
            assert numbered is not None
            if isinstance(numbered.event, (AcceptedEvent, QueuedEvent)):
                positions.append(numbered.event.queue_position)
    except JobCancelledError:
        pass
    return positions


def test_events_of_a_job() -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.let_go(1)
        job = await bench.submit(1)
        events = await bench.events_of(job)
        assert isinstance(events[0], AcceptedEvent)
        assert (events[0].job_id, events[0].request_id) == (job.job_id, "request 1")
        assert (events[0].queue_position, events[0].width, events[0].height) == (0, *SIZE)
        assert isinstance(events[1], StageStarted)
        assert isinstance(events[-2], StoredResultEvent)
        assert isinstance(events[-1], CompletedEvent)
        assert events[-1].run_seconds >= 0
        assert job.state is JobState.SUCCEEDED

    on_bench(scenario)


def test_jobs_run_one_after_another_in_the_order_they_came() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (3, 1, 2)]
        assert bench.executor.begun == [3]
        assert (bench.manager.running, bench.manager.queued) == (1, 2)
        bench.executor.let_go(2, 1, 3)
        for job in jobs:
            await bench.events_of(job)
        assert bench.executor.begun == bench.executor.ended == [3, 1, 2]
        assert bench.executor.most_at_once == 1

    on_bench(scenario)


def test_as_many_jobs_at_once_as_there_are_slots() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3)]
        assert bench.executor.begun == [1, 2]
        assert [job.queue_position for job in jobs] == [0, 0, 1]
        bench.executor.let_go(2)
        await bench.events_of(jobs[1])
        await until(lambda: len(bench.executor.begun) == 3)
        assert bench.executor.begun == [1, 2, 3]
        assert bench.executor.most_at_once == 2

    on_bench(scenario, slots=2)


@pytest.mark.parametrize(("slots", "capacity"), [(1, 0), (1, 1), (2, 3)])
def test_capacity(slots: int, capacity: int) -> None:
    async def scenario(bench: Bench) -> None:
        for seed in range(slots + capacity):
            await bench.submit(seed)
        with pytest.raises(QueueFullError) as raised:
            bench.manager.admit("")
        assert raised.value.retry_seconds > 0
        with pytest.raises(QueueFullError):
            await bench.submit(99)
        assert (bench.manager.running, bench.manager.queued) == (slots, capacity)
        bench.executor.let_go(0)
        await until(lambda: len(bench.manager.jobs) < slots + capacity)
        assert (await bench.submit(99)).state in {JobState.QUEUED, JobState.RUNNING}

    on_bench(scenario, slots=slots, capacity=capacity)


def test_jobs_submitted_at_once_are_bounded_and_placed() -> None:
    async def scenario(bench: Bench) -> None:
        # No task may run in between: the jobs are counted before any of them is stored.
        jobs = [bench.submit_now(seed, stored=False) for seed in range(3)]
        with pytest.raises(QueueFullError):
            bench.submit_now(3)
        await until(lambda: all(job.log.sequence for job in jobs))
        await settle()
        assert [job.queue_position for job in jobs] == [0, 1, 2]

    on_bench(scenario, capacity=2)


def test_positions_are_announced_as_the_queue_moves() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3, 4)]
        for seed, job in enumerate(jobs, 1):
            bench.executor.let_go(seed)
            await bench.ended(job)
        assert [await positions_of(job) for job in jobs] == [[0], [1], [2, 1], [3, 2, 1]]

    on_bench(scenario)


def test_positions_after_a_queued_job_is_cancelled() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3, 4)]
        bench.manager.cancel(jobs[2])
        assert [job.queue_position for job in jobs] == [0, 1, 2, 2]
        bench.manager.cancel(jobs[3])
        bench.manager.cancel(jobs[1])
        assert [await positions_of(job) for job in jobs[1:]] == [[1], [2], [3, 2]]

    on_bench(scenario)


def test_clients_take_turns() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed, client="many") for seed in (1, 2, 3)]
        late = await bench.submit(4, client="one")
        everybody = [jobs[0], late, *jobs[1:]]
        assert [job.queue_position for job in everybody] == [0, 1, 2, 3]
        for seed, job in zip((1, 4, 2, 3), everybody, strict=True):
            bench.executor.let_go(seed)
            await bench.ended(job)
        assert bench.executor.ended == [1, 4, 2, 3]
        assert [await positions_of(job) for job in jobs] == [[0], [1, 2, 1], [2, 3, 2, 1]]

    on_bench(scenario, capacity=4)


def test_cancel_of_a_queued_job() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = await bench.submit(1), await bench.submit(2)
        bench.manager.cancel(second)
        assert second.state is JobState.CANCELLED
        assert bench.manager.queued == 0
        with pytest.raises(JobCancelledError):
            await bench.events_of(second)
        bench.executor.let_go(1, 2)
        await bench.events_of(first)
        await settle()
        assert bench.executor.begun == [1]

    on_bench(scenario)


def test_cancelled_job_has_left_its_place() -> None:
    async def scenario(bench: Bench) -> None:
        _, waiting = [await bench.submit(seed) for seed in (1, 2)]
        with pytest.raises(QueueFullError):
            bench.manager.admit("")
        bench.manager.cancel(waiting)
        # No task may run in between: its end is not stored yet, and nobody who asks sees it in the queue any more.
        assert waiting in bench.manager.jobs
        assert bench.manager.queued == 0
        with bench.manager.admit(""):
            pass

    on_bench(scenario, capacity=1)


def test_cancel_of_a_running_job_frees_its_slot() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = await bench.submit(1), await bench.submit(2)
        bench.manager.cancel(first)
        await bench.ended(first)
        assert first.state is JobState.CANCELLED
        with pytest.raises(JobCancelledError):
            await bench.events_of(first)
        bench.executor.let_go(2)
        assert isinstance((await bench.events_of(second))[-1], CompletedEvent)

    on_bench(scenario)


def test_cancel_of_a_job_that_has_ended_does_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.let_go(1)
        job = await bench.submit(1)
        await bench.events_of(job)
        bench.manager.cancel(job)
        bench.manager.cancel(job)
        assert job.state is JobState.SUCCEEDED

    on_bench(scenario)


def test_failed_job_does_not_end_the_runner() -> None:
    async def scenario(bench: Bench) -> None:
        failures = [RuntimeError("broken"), TimeoutError("late"), KeyError("odd")]
        for seed, failure in enumerate(failures):
            bench.executor.failures[seed] = failure
            bench.executor.let_go(seed)
            job = await bench.submit(seed)
            with pytest.raises(type(failure)) as raised:
                await bench.events_of(job)
            assert raised.value is failure
            assert job.state is JobState.FAILED
        bench.executor.let_go(9)
        assert isinstance((await bench.events_of(await bench.submit(9)))[-1], CompletedEvent)

    on_bench(scenario)


def test_job_whose_worker_died_goes_on_before_the_others() -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.failures[1] = WorkerDiedError("dead")
        first, second = await bench.submit(1), await bench.submit(2)
        bench.executor.let_go(2)
        bench.executor.fail_once(1)
        await until(lambda: first.attempts == 2)
        await settle()
        assert (first.state, second.state) == (JobState.RUNNING, JobState.QUEUED)
        bench.executor.let_go(1)
        events = await bench.events_of(first)
        assert [event for event in events if isinstance(event, ResumedEvent)] == [ResumedEvent("", 0)]
        assert isinstance(events[-1], CompletedEvent)
        await bench.events_of(second)
        assert bench.executor.begun == [1, 1, 2]

    on_bench(scenario)


def test_job_that_takes_every_worker_along_fails() -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.failures[1] = WorkerDiedError("dead")
        bench.executor.let_go(1)
        job = await bench.submit(1)
        with pytest.raises(WorkerDiedError):
            await bench.events_of(job)
        assert (job.state, job.attempts) == (JobState.FAILED, MAX_DEATHS)

    on_bench(scenario)


def test_cancel_of_a_job_whose_worker_dies() -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.failures[1] = WorkerDiedError("dead")
        job = await bench.submit(1)
        bench.executor.let_go(1)
        bench.executor.fail_before_cancel = True
        bench.manager.cancel(job)
        with pytest.raises(JobCancelledError):
            await bench.events_of(job)
        assert job.attempts == 1

    on_bench(scenario)


def test_request_sent_again_is_the_same_job() -> None:
    async def scenario(bench: Bench) -> None:
        running, queued = await bench.submit(1), await bench.submit(2)
        for seed, job in ((1, running), (2, queued)):
            assert await bench.find(seed) is job
            assert bench.submit_now(seed) is job
            with pytest.raises(DuplicateRequestError):
                await bench.manager.find("", job.request_id, payload_of(3))
            assert await bench.find(seed, owner="somebody else") is None
        bench.executor.let_go(1, 2)
        for seed, job in ((1, running), (2, queued)):
            before = await bench.events_of(job)
            past = await bench.find(seed)
            assert isinstance(past, JobRecord)
            assert past == replace(job.record(), number=past.number)
            assert (await bench.events_of(past))[-2:] == before[-2:]
            with pytest.raises(DuplicateRequestError):
                await bench.manager.find("", job.request_id, payload_of(3))
        assert bench.executor.begun == [1, 2]

    on_bench(scenario)


@pytest.mark.parametrize("leave_seconds", [0, 0.01, None, math.inf])
def test_job_ends_with_the_last_reader_that_says_so(leave_seconds: float | None) -> None:
    async def scenario(bench: Bench) -> None:
        job = await bench.submit(1)
        readers = [bench.manager.events(job, heartbeat=60, leave_seconds=leave_seconds) for _ in range(2)]
        for reader in readers:
            await anext(reader)
        await readers[0].aclose()
        await asyncio.sleep(0.1)
        assert job.state is JobState.RUNNING
        await readers[1].aclose()
        if leave_seconds in {0, 0.01}:
            await bench.ended(job)
            assert job.state is JobState.CANCELLED
        else:
            await asyncio.sleep(0.1)
            assert job.state is JobState.RUNNING

    on_bench(scenario)


async def _left(bench: Bench, job: Job, leave_seconds: float | None) -> None:
    """A reader has come and gone."""
    reader = bench.manager.events(job, heartbeat=60, leave_seconds=leave_seconds)
    await anext(reader)
    await reader.aclose()


def test_reader_that_is_back_in_time_keeps_the_job_and_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        job = await bench.submit(1)
        await _left(bench, job, 60)
        assert not job.cancel.is_set()
        back = bench.manager.events(job, heartbeat=60)
        await anext(back)
        monkeypatch.setattr("intarsia_server.jobs.manager.LEAVE_SECONDS", 0.01)
        await asyncio.sleep(0.1)
        assert not job.cancel.is_set()
        await back.aclose()
        await bench.ended(job)
        assert job.state is JobState.CANCELLED

    on_bench(scenario)


@pytest.mark.parametrize("end", ["it is detached", "it is cancelled", "it succeeds"])
def test_job_that_was_left_and_ends_otherwise(end: str) -> None:
    async def scenario(bench: Bench) -> None:
        job = await bench.submit(1)
        await _left(bench, job, 60)
        assert bench.manager._left
        match end:
            case "it is detached":
                await _left(bench, job, math.inf)
            case "it is cancelled":
                bench.manager.cancel(job)
                assert job.cancel.is_set()
            case "it succeeds":
                bench.executor.let_go(1)
                await bench.ended(job)
        await until(lambda: not bench.manager._left)
        assert job.cancel.is_set() is (end == "it is cancelled")

    on_bench(scenario)


def test_drain_lets_all_jobs_finish_and_takes_no_more() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3)]
        drain = asyncio.create_task(bench.manager.drain(60))
        await settle()
        with pytest.raises(DrainingError):
            await bench.submit(4)
        assert not drain.done()
        bench.executor.let_go(1, 2, 3)
        await drain
        assert [job.state for job in jobs] == [JobState.SUCCEEDED] * 3
        for job in jobs:
            assert isinstance((await bench.events_of(job))[-1], CompletedEvent)

    on_bench(scenario)


def test_drain_cancels_what_is_left_and_says_why() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3)]
        await bench.manager.drain(0)
        assert [job.state for job in jobs] == [JobState.CANCELLED] * 3
        for job in jobs:
            with pytest.raises(DrainingError):
                await bench.events_of(job)

    on_bench(scenario)


STEPS = {
    (JobState.QUEUED, JobState.RUNNING),
    (JobState.QUEUED, JobState.FAILED),
    (JobState.QUEUED, JobState.CANCELLED),
    (JobState.RUNNING, JobState.QUEUED),
    (JobState.RUNNING, JobState.SUCCEEDED),
    (JobState.RUNNING, JobState.FAILED),
    (JobState.RUNNING, JobState.CANCELLED),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(JobState, JobState)))
def test_transitions(before: JobState, after: JobState) -> None:
    job = Job("job", "request", transfer_request(0), SIZE, state=before)
    if (before, after) in STEPS:
        job.move_to(after)
        assert job.state is after
    else:
        with pytest.raises(ValueError, match="cannot go"):
            job.move_to(after)
        assert job.state is before
