"""Any order of what callers, workers and kills do to jobs: none is lost, none is done twice with two results."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from intarsia_server.engine.request import TransferRequest
from intarsia_server.executors.base import WorkerDiedError
from intarsia_server.jobs.admission import QueueFullError
from intarsia_server.jobs.errors import DuplicateRequestError
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, Numbered, SnapshotEvent, StoredResultEvent
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord, JobState
from job_bench import Bench, payload_of, settle, until
from server_process import LONG

Answer = TypeVar("Answer")

CAPACITY = 3


class Jobs(RuleBasedStateMachine):
    """A server's jobs, each known by its seed, over the lives of several servers on one folder."""

    seeds: Bundle[int] = Bundle("seeds")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.path = Path(tempfile.mkdtemp(prefix="intarsia-states-"))
        self.accepted: dict[int, str] = {}
        self.ends: dict[int, tuple[JobState, object]] = {}
        self.read: dict[int, list[Numbered]] = {}
        self.next_seed = 0

    def do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return self.loop.run_until_complete(asyncio.wait_for(work, LONG))

    @initialize(slots=st.integers(1, 2))
    def begin(self, slots: int) -> None:
        self.slots = slots
        self.restart()

    def restart(self) -> None:
        async def start() -> Bench:
            bench = Bench(self.path, slots=self.slots, capacity=CAPACITY, chunk_bytes=3)
            await bench.start()
            return bench

        self.bench = self.do(start())

    @rule(target=seeds)
    def submit(self) -> int:
        seed, self.next_seed = self.next_seed, self.next_seed + 1
        active = len(self.bench.manager.jobs)
        try:
            job = self.do(self.bench.submit(seed))
        except QueueFullError:
            assert active == CAPACITY + self.slots
        else:
            assert active < CAPACITY + self.slots
            self.accepted[seed] = job.job_id
        return seed

    @rule(seed=seeds)
    def send_again(self, seed: int) -> None:
        found = self.do(self.bench.find(seed))
        assert (found and found.job_id) == self.accepted.get(seed)

    @rule(seed=seeds)
    def send_something_else(self, seed: int) -> None:
        find = self.bench.manager.find("", f"request {seed}", payload_of(10_000))
        if seed in self.accepted:
            with pytest.raises(DuplicateRequestError):
                self.do(find)
        else:
            assert self.do(find) is None

    @rule(seed=seeds)
    def cancel(self, seed: int) -> None:
        job = self.do(self.bench.find(seed))

        async def cancel(job: Job) -> None:
            self.bench.manager.cancel(job)
            await self.bench.ended(job)
            await self.calm()

        if isinstance(job, Job):
            self.do(cancel(job))

    @rule(seed=seeds)
    def finish(self, seed: int) -> None:
        self.bench.executor.let_go(seed)
        self.do(self.calm())

    @rule(seed=seeds)
    def fail(self, seed: int) -> None:
        self.bench.executor.failures[seed] = ValueError("broken")
        self.finish(seed)

    @rule(seed=seeds)
    def kill_its_worker(self, seed: int) -> None:
        job = self.do(self.bench.find(seed))
        if isinstance(job, Job) and job.state is JobState.RUNNING and job.deaths == 0:
            self.bench.executor.failures[seed] = WorkerDiedError("dead")
            self.bench.executor.fail_once(seed)
            self.do(until(lambda: job.deaths == 1))
            self.do(settle())

    async def calm(self) -> None:
        """Waits for all that follows by itself: jobs that were let go while they waited end as soon as they begin."""

        def is_calm() -> bool:
            jobs = self.bench.manager.jobs
            running = [job for job in jobs if job.state is JobState.RUNNING]
            held = [job for job in running if not self.bench.executor.may_go(seed_of(job))]
            return len(held) == min(self.slots, len(jobs))

        await until(is_calm)
        await settle()

    @rule(seed=seeds, count=st.integers(1, 5))
    def read_on(self, seed: int, count: int) -> None:
        """Takes the events up where they were left; some may be read in this server's life, some in the next one's."""
        if seed not in self.accepted:
            return
        seen = self.read.setdefault(seed, [])

        async def read() -> None:
            job = await self.bench.find(seed)
            assert job is not None
            events = self.bench.manager.events(job, after=seen[-1].last if seen else 0, heartbeat=0.001)
            try:
                for _ in range(count):
                    numbered = await anext(events, None)
                    if numbered is None:  # nothing more for now, or at all
                        break
                    seen.append(numbered)
            except Exception:
                assert job.state in {JobState.FAILED, JobState.CANCELLED}
            finally:
                await events.aclose()

        self.do(read())

    @rule()
    def kill(self) -> None:
        self.do(self.bench.die())
        self.restart()

    @rule()
    def drain(self) -> None:
        self.do(self.bench.manager.drain(0))
        self.do(self.bench.die())
        self.restart()

    @invariant()
    def every_job_is_there_and_what_has_ended_stays_as_it_is(self) -> None:
        for seed, job_id in self.accepted.items():
            found = self.do(self.bench.manager.get(job_id, ""))
            if isinstance(found, JobRecord):
                assert found.state.ended
                assert self.ends.setdefault(seed, (found.state, found.outcome)) == (found.state, found.outcome)
            else:
                assert seed not in self.ends

    @invariant()
    def workers_are_at_work(self) -> None:
        states = [job.state for job in self.bench.manager.jobs]
        assert states.count(JobState.RUNNING) == min(self.slots, len(states))
        assert states.count(JobState.QUEUED) == self.bench.manager.queued

    @invariant()
    def numbers_grow_without_a_silent_gap(self) -> None:
        for seen in self.read.values():
            last = 0
            for numbered in seen:
                assert numbered.sequence > last
                assert numbered.sequence == last + 1 or isinstance(numbered.event, SnapshotEvent)
                last = numbered.last
            assert sum(isinstance(numbered.event, StoredResultEvent) for numbered in seen) <= 1

    def teardown(self) -> None:
        self.do(self.bench.stop())
        self.restart()
        for job_id in self.accepted.values():
            found = self.do(self.bench.manager.get(job_id, ""))
            assert isinstance(found, JobRecord)
            assert found.state.ended
            if found.state is JobState.SUCCEEDED:
                events = self.do(self.bench.events_of(found))
                assert isinstance(events[0], AcceptedEvent)
                assert isinstance(events[-2], StoredResultEvent)
                assert isinstance(events[-1], CompletedEvent)
        self.do(self.bench.stop())
        self.loop.close()
        shutil.rmtree(self.path)


def seed_of(job: Job) -> int:
    assert isinstance(job.request, TransferRequest)
    return job.request.seed


Jobs.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
test_jobs = Jobs.TestCase
