"""The model of what a server takes, against what is known of queues and by counting."""

from __future__ import annotations

import math
import random
import time

import grpc
import pytest
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.paced import RESULT_BYTES
from bench.scale import BUSY, Job, Parts, throughput, waiting
from bench.trust.samples import stylize_request
from bench.trust.server import running_server

PARTS = Parts(front_job=0.03, front_message=0.001, store_job=0.002)
JOB = Job(worker_seconds=2.0, messages=20)
FRONT = 0.05
"""Seconds of the front for such a job: 0.03 + 20 x 0.001."""


def simulated(rate: float, seconds: float, workers: int, jobs: int) -> float:
    """Mean wait of jobs that come at random moments and take random times, by playing it through."""
    chance = random.Random(0)
    free = [0.0] * workers
    now = waited = 0.0
    for _ in range(jobs):
        now += chance.expovariate(rate)
        first = min(range(workers), key=free.__getitem__)
        begins = max(now, free[first])
        waited += begins - now
        free[first] = begins + chance.expovariate(1 / seconds)
    return waited / jobs


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9])
def test_one_worker_waits_as_is_known(load: float) -> None:
    """M/M/1: the load's share of the service time, for each share that is free."""
    assert waiting(load / 3.0, 3.0, 1) == pytest.approx(3.0 * load / (1 - load))


@pytest.mark.parametrize(("workers", "load"), [(2, 0.8), (8, 0.8), (8, 0.95)])
def test_waits_are_those_of_a_queue_played_through(workers: int, load: float) -> None:
    expected = simulated(load * workers / 1.5, 1.5, workers, 200_000)
    assert waiting(load * workers / 1.5, 1.5, workers) == pytest.approx(expected, rel=0.1)


def test_no_number_of_workers_is_too_large() -> None:
    assert 0.0 < waiting(BUSY * 1000, 1.0, 1000) < 1e-6


def test_few_workers_are_the_limit() -> None:
    capacity = throughput(JOB, PARTS, 4)
    assert (capacity.limit, capacity.per_second, capacity.servers) == ("workers", 2.0, 1)
    assert capacity.wait == pytest.approx(waiting(BUSY * 2.0, 2.0, 4))


def test_beyond_some_number_the_front_is() -> None:
    """It is 0.8 busy with 16 jobs a second, which 32 workers can do."""
    assert throughput(JOB, PARTS, 31).limit == "workers"
    capacity = throughput(JOB, PARTS, 1000)
    assert capacity.limit == "front"
    assert capacity.per_second == pytest.approx(BUSY / FRONT)
    # 1000 workers, 0.8 busy, do 400 jobs a second; a front that is 0.8 busy takes 16 of them.
    assert capacity.servers == 25
    assert math.isfinite(capacity.wait)


def test_a_slow_store_is_the_limit() -> None:
    slow = Parts(front_job=1e-6, front_message=0.0, store_job=0.5)
    capacity = throughput(JOB, slow, 1000)
    assert (capacity.limit, capacity.per_second) == ("store", pytest.approx(BUSY / 0.5))


def test_a_paced_worker_says_each_step_and_sends_a_result() -> None:
    request = stylize_request()
    request.masked_gram.steps = 5
    with running_server("", ("bench.paced", "0.01")) as server, grpc.insecure_channel(server.address) as channel:
        server.wait_until_ready()
        for request.seed in range(2):
            began = time.monotonic()
            events = list(StyleTransferServiceStub(channel).Stylize(request))
            assert time.monotonic() - began >= 5 * 0.01
            assert [event.progress.step for event in events if event.HasField("progress")] == [1, 2, 3, 4, 5]
            assert sum(event.result.size_bytes for event in events) == RESULT_BYTES
            assert events[-1].HasField("completed")
