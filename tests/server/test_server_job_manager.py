"""The job manager on a scripted executor: order, capacity, cancel, drain, failure and positions in the queue."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from intarsia_server.engine.events import StageStarted
from intarsia_server.executors.base import ResultEvent, WorkerDiedError
from intarsia_server.jobs.admission import Limits, QueueFullError
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, JobEvent, QueuedEvent
from intarsia_server.jobs.manager import (
    DrainingError,
    DuplicateRequestError,
    JobCancelledError,
    JobManager,
)
from intarsia_server.jobs.model import Job, JobState
from scripted_executor import ScriptedExecutor, transfer_request

SIZE = (96, 64)


class Bench:
    """A manager, its executor, and jobs known by their seeds."""

    def __init__(self, *, slots: int = 1, capacity: int = 3) -> None:
        self.executor = ScriptedExecutor(slots)
        self.manager = JobManager(self.executor, limits=Limits(waiting=capacity))
        self.manager.start()

    async def submit(self, seed: int) -> Job:
        job = self.submit_now(seed)
        await settle()
        return job

    def submit_now(self, seed: int, client: str = "") -> Job:
        request_id = f"request {seed}"
        with self.manager.admit(request_id, client) as place:
            return self.manager.submit(transfer_request(seed), place, request_id=request_id, size=SIZE)


def on_bench(scenario: Callable[[Bench], Awaitable[None]], *, slots: int = 1, capacity: int = 3) -> None:
    async def run() -> None:
        bench = Bench(slots=slots, capacity=capacity)
        await asyncio.wait_for(scenario(bench), 30)
        bench.executor.let_go(*range(100))
        await asyncio.wait_for(bench.manager.drain(30), 30)
        assert bench.manager.running == bench.manager.queued == 0

    asyncio.run(run())


async def settle() -> None:
    """Lets everything happen that can happen now."""
    for _ in range(20):
        await asyncio.sleep(0)


async def events_of(job: Job) -> list[JobEvent]:
    """All events of a job that ends by itself."""
    return [numbered.event async for numbered in job.log.read(heartbeat=60) if numbered is not None]


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
        events = await events_of(job)
        assert isinstance(events[0], AcceptedEvent)
        assert (events[0].job_id, events[0].request_id) == (job.job_id, "request 1")
        assert (events[0].queue_position, events[0].width, events[0].height) == (0, *SIZE)
        assert isinstance(events[1], StageStarted)
        assert isinstance(events[-2], ResultEvent)
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
            await events_of(job)
        assert bench.executor.begun == bench.executor.ended == [3, 1, 2]
        assert bench.executor.most_at_once == 1

    on_bench(scenario)


def test_as_many_jobs_at_once_as_there_are_slots() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3)]
        assert bench.executor.begun == [1, 2]
        assert [job.queue_position for job in jobs] == [0, 0, 1]
        bench.executor.let_go(2)
        await events_of(jobs[1])
        await settle()
        assert bench.executor.begun == [1, 2, 3]
        assert bench.executor.most_at_once == 2

    on_bench(scenario, slots=2)


@pytest.mark.parametrize(("slots", "capacity"), [(1, 0), (1, 1), (2, 3)])
def test_capacity(slots: int, capacity: int) -> None:
    async def scenario(bench: Bench) -> None:
        for seed in range(slots + capacity):
            await bench.submit(seed)
        with pytest.raises(QueueFullError) as raised:
            bench.manager.admit("another", "")
        assert raised.value.retry_seconds > 0
        with pytest.raises(QueueFullError):
            await bench.submit(99)
        assert (bench.manager.running, bench.manager.queued) == (slots, capacity)
        bench.executor.let_go(0)
        await settle()
        assert (await bench.submit(99)).state in {JobState.QUEUED, JobState.RUNNING}

    on_bench(scenario, slots=slots, capacity=capacity)


def test_jobs_submitted_at_once_are_placed_and_bounded() -> None:
    async def scenario(bench: Bench) -> None:
        # No task may run in between: the jobs are counted before a worker has taken the first.
        assert [bench.submit_now(seed).queue_position for seed in range(3)] == [0, 1, 2]
        with pytest.raises(QueueFullError):
            bench.submit_now(3)

    on_bench(scenario, capacity=2)


def test_positions_are_announced_as_the_queue_moves() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3, 4)]
        for seed, job in enumerate(jobs, 1):
            bench.executor.let_go(seed)
            await asyncio.wait_for(_ended(job), 30)
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


async def _ended(job: Job) -> None:
    while job.state in {JobState.QUEUED, JobState.RUNNING}:
        await settle()


def test_clients_take_turns() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [bench.submit_now(seed, "many") for seed in (1, 2, 3)]
        late = bench.submit_now(4, "one")
        assert [job.queue_position for job in (*jobs, late)] == [0, 2, 3, 1]
        for seed in (1, 4, 2, 3):
            await settle()
            bench.executor.let_go(seed)
        for job in (*jobs, late):
            await asyncio.wait_for(_ended(job), 30)
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
            await events_of(second)
        bench.executor.let_go(1, 2)
        await events_of(first)
        await settle()
        assert bench.executor.begun == [1]

    on_bench(scenario)


def test_cancel_of_a_running_job_frees_its_slot() -> None:
    async def scenario(bench: Bench) -> None:
        first, second = await bench.submit(1), await bench.submit(2)
        bench.manager.cancel(first)
        await asyncio.wait_for(_ended(first), 30)
        assert first.state is JobState.CANCELLED
        with pytest.raises(JobCancelledError):
            await events_of(first)
        bench.executor.let_go(2)
        assert isinstance((await events_of(second))[-1], CompletedEvent)

    on_bench(scenario)


def test_cancel_of_a_job_that_has_ended_does_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.let_go(1)
        job = await bench.submit(1)
        await events_of(job)
        bench.manager.cancel(job)
        bench.manager.cancel(job)
        assert job.state is JobState.SUCCEEDED

    on_bench(scenario)


def test_failed_job_does_not_end_the_runner() -> None:
    async def scenario(bench: Bench) -> None:
        failures = [RuntimeError("broken"), WorkerDiedError("dead"), TimeoutError("late"), KeyError("odd")]
        for seed, failure in enumerate(failures):
            bench.executor.failures[seed] = failure
            bench.executor.let_go(seed)
            job = await bench.submit(seed)
            with pytest.raises(type(failure)) as raised:
                await events_of(job)
            assert raised.value is failure
            assert job.state is JobState.FAILED
        bench.executor.let_go(9)
        assert isinstance((await events_of(await bench.submit(9)))[-1], CompletedEvent)

    on_bench(scenario)


def test_request_id_is_taken_while_its_job_is_active() -> None:
    async def scenario(bench: Bench) -> None:
        running, queued = await bench.submit(1), await bench.submit(2)
        for seed in (1, 2):
            with pytest.raises(DuplicateRequestError):
                await bench.submit(seed)
        bench.manager.cancel(queued)
        bench.executor.let_go(1, 2)
        await events_of(running)
        for seed in (1, 2):
            assert isinstance((await events_of(await bench.submit(seed)))[-1], CompletedEvent)

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
            assert isinstance((await events_of(job))[-1], CompletedEvent)

    on_bench(scenario)


def test_drain_cancels_what_is_left_and_says_why() -> None:
    async def scenario(bench: Bench) -> None:
        jobs = [await bench.submit(seed) for seed in (1, 2, 3)]
        await bench.manager.drain(0)
        assert [job.state for job in jobs] == [JobState.CANCELLED] * 3
        for job in jobs:
            with pytest.raises(DrainingError):
                await events_of(job)

    on_bench(scenario)


STEPS = {
    (JobState.QUEUED, JobState.RUNNING),
    (JobState.QUEUED, JobState.CANCELLED),
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
