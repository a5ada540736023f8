"""Fair turns between clients, by the seconds that their jobs take."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.queue import FIRST_GUESS, FairQueue
from intarsia_server.jobs.record import JobState
from scripted_executor import transfer_request


def job(client: str, seconds: float | None = 1.0, memory: int = 0) -> Job:
    return Job("job", "request", transfer_request(0), (96, 64), client=client, seconds=seconds, memory=memory)


def clients(queue: FairQueue, count: int) -> str:
    """Whose the next jobs are; they are taken."""
    return "".join(queue.pop().client for _ in range(count))


def queue_of(*jobs: Job) -> FairQueue:
    queue = FairQueue()
    for each in jobs:
        queue.append(each)
    return queue


def done(queue: FairQueue, seconds: float = 1.0) -> Job:
    """Takes the next job, which ends after that long."""
    taken = queue.pop()
    taken.state = JobState.SUCCEEDED
    queue.settle(taken, seconds)
    return taken


def test_one_clients_jobs_run_in_the_order_they_came() -> None:
    jobs = [job("a", seconds) for seconds in (5.0, None, 1.0, 60.0)]
    queue = queue_of(*jobs)
    assert list(queue) == jobs
    assert [queue.pop() for _ in jobs] == jobs


def test_clients_take_turns_however_many_jobs_they_have() -> None:
    queue = queue_of(*(job("a") for _ in range(10)), job("b"), job("b"))
    assert clients(queue, 6) == "ababaa"


def test_a_large_job_counts_as_many_small_ones() -> None:
    queue = queue_of(*(job("a", 10.0) for _ in range(3)), *(job("b", 1.0) for _ in range(30)))
    taken = clients(queue, 22)
    assert taken.count("a") == 2
    assert taken[:2] == "ab"


def test_ten_to_one() -> None:
    """One client offers ten times the jobs of the other; both have as much work done while both have some to do."""
    chance = random.Random(1)
    queue, had = FairQueue(), Counter[str]()
    for _ in range(2000):
        while queue.count("greedy") < 20:
            queue.append(job("greedy", chance.uniform(1, 20)))
        while queue.count("modest") < 2:
            queue.append(job("modest", chance.uniform(1, 4)))
        taken = queue.pop()
        had[taken.client] += taken.seconds or 0
    assert had["greedy"] / had["modest"] == pytest.approx(1, abs=0.05)


def test_idling_earns_nothing() -> None:
    queue = queue_of(*(job("a") for _ in range(20)))
    clients(queue, 10)
    for _ in range(10):
        queue.append(job("b"))
    assert clients(queue, 6).count("b") == 3


def test_newcomers_without_end_do_not_starve_a_client() -> None:
    queue, taken = queue_of(*(job("a") for _ in range(3))), ""
    for number in range(9):
        queue.append(job(f"{number}"))
        taken += done(queue).client[0]
    assert taken.count("a") == 3


def test_a_newcomer_does_not_wait_for_what_was_expected_too_long() -> None:
    queue = queue_of(*(job("a", 100.0) for _ in range(10)))
    done(queue, seconds=1.0)
    queue.pop()
    queue.append(job("b", 1.0))
    assert clients(queue, 2) == "ba"


def test_what_a_job_took_counts_in_the_end() -> None:
    queue = queue_of(*(job("a", 1.0) for _ in range(5)), *(job("b", 1.0) for _ in range(10)))
    first = queue.pop()
    first.state = JobState.SUCCEEDED
    queue.settle(first, 5.0)
    assert first.client == "a"
    assert clients(queue, 6) == "bbbbba"


def test_a_job_that_nothing_is_known_of_counts_as_the_last_of_its_kind() -> None:
    queue = queue_of(job("a", None), job("a", None))
    first = queue.pop()
    assert queue.seconds_of(first) == FIRST_GUESS
    first.state = JobState.SUCCEEDED
    queue.settle(first, 2.0)
    assert queue.seconds_of(queue.pop()) == 2.0


def test_a_cancelled_job_says_nothing_of_its_kind() -> None:
    queue = queue_of(job("a", None))
    first = queue.pop()
    first.state = JobState.CANCELLED
    queue.settle(first, 0.01)
    assert queue.seconds_of(first) == FIRST_GUESS


def test_a_resumed_job_is_its_clients_next_and_is_not_charged_twice() -> None:
    queue = queue_of(*(job("a") for _ in range(3)), *(job("b") for _ in range(3)))
    first = queue.pop()
    assert first.client == "a"
    queue.append_left(first)
    assert queue.pop() is first
    assert clients(queue, 5) == "babab"


def test_a_resumed_job_of_a_queue_that_has_not_seen_it() -> None:
    queue = queue_of(job("a"))
    resumed = job("a")
    queue.append_left(resumed)
    assert queue.pop() is resumed


def test_counts() -> None:
    queue = queue_of(job("a", memory=5), job("a", memory=7), job("b"))
    assert (len(queue), queue.count("a"), queue.count("b"), queue.count("c"), queue.memory()) == (3, 2, 1, 0, 12)
    queue.remove(next(iter(queue)))
    assert (len(queue), queue.count("a"), queue.memory()) == (2, 1, 7)


def test_what_does_not_wait_cannot_be_taken() -> None:
    queue = queue_of(job("a"))
    with pytest.raises(ValueError, match="deque"):
        queue.remove(job("a"))
    with pytest.raises(ValueError, match="wait"):
        queue.remove(job("b"))
    queue.pop()
    with pytest.raises(IndexError):
        queue.pop()


def test_clients_that_have_gone_are_forgotten() -> None:
    queue = FairQueue()
    for number in range(1000):
        queue.append(job(f"client {number}"))
        done(queue)
    assert len(queue._had) <= 2


Jobs = st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.floats(0, 100)), max_size=30)


@given(Jobs, st.lists(st.booleans(), max_size=10), st.sampled_from("abcde"))
def test_what_is_foreseen_happens(offered: list[tuple[str, float | None]], takes: list[bool], newcomer: str) -> None:
    """The order that is told, and a newcomer's place in it, are those in which the jobs are taken."""
    queue = FairQueue()
    for number, (client, seconds) in enumerate(offered):
        queue.append(job(client, seconds))
        if number < len(takes) and takes[number]:
            queue.pop()
    foreseen = list(queue)
    assert len(foreseen) == len(queue)
    ahead, last = queue.ahead(newcomer), job(newcomer)
    queue.append(last)
    taken = [queue.pop() for _ in range(len(queue))]
    assert taken[: len(ahead)] == ahead
    assert taken[len(ahead)] is last
