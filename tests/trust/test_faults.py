"""Jobs that are cancelled, and whose workers and servers are killed or told to end: a time or two each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from intarsia import Client
from intarsia.v1 import style_transfer_pb2 as pb

from bench.report import Report
from bench.trust import cancel, kill_server, kill_worker, memory, terminate
from bench.trust.jobs import Unbroken, job_of, unbroken
from bench.trust.lasting import LastingServer, lasting_server
from bench.trust.load import KINDS, keep_busy
from bench.trust.server import Server, running_server


@dataclass
class Bench:
    """A server with a client, and jobs that it has run without a break."""

    server: LastingServer
    client: Client
    jobs: list[Unbroken]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(threads=1) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    settings = {"checkpoint_seconds": 0.1, "drain_seconds": 1, "result_chunk_bytes": 4096}
    with lasting_server(**settings) as server, Client(server.address) as client:
        yield Bench(server, client, unbroken(client, [job_of("sequential", 60)]))


def missed(report: Report) -> list[str]:
    """What was counted that should not have been; times are not looked at."""
    return [figure.name for figure in report.figures if not figure.unit and not figure.reached]


@pytest.mark.parametrize("by_name", [False, True])
def test_cancel(server: Server, by_name: bool) -> None:
    with Client(server.address) as client:
        runs = [cancel.cancel_one(client, by_name=by_name, delay=delay) for delay in (0, 0.2)]
    assert not missed(cancel.report_of(runs, step=1))


def test_killed_workers(bench: Bench) -> None:
    hits = list(kill_worker.hits_of(bench.server, bench.client, bench.jobs, 2, random.Random(1)))
    assert all(hit.seen.resumed for hit in hits)
    assert not missed(kill_worker.report_of(hits, step=1))


def test_killed_server(bench: Bench) -> None:
    before = len(list(bench.client.list_jobs()))
    with ThreadPoolExecutor(2) as pool:
        survivors = list(kill_server.survivors_of(bench.server, pool, 2 * bench.jobs, random.Random(1)))
    listed = list(bench.client.list_jobs())[:-before]
    assert sum(job.attempts for job in listed) > len(listed)
    assert not missed(kill_server.report_of(survivors, listed, kills=1))


def test_terminated_server(bench: Bench) -> None:
    with ThreadPoolExecutor(1) as pool:
        ending = terminate.end_one(bench.server, bench.client, pool, bench.jobs[0], delay=0.2)
    assert ending.code == 0
    assert not missed(terminate.report_of([ending]))


def test_memory(server: Server) -> None:
    with Client(server.address) as client:
        held = list(memory.held_after(server, client, 4))
    assert all(front > 0 and worker > 0 for front, worker in held)


def test_memory_that_grows() -> None:
    held = [(int(1e6 * number), int(1e8)) for number in range(20)]
    (figure,) = memory.report_of(held).figures
    assert figure.measured == pytest.approx(16)
    assert not figure.reached


def test_busy_clients(server: Server) -> None:
    with Client(server.address) as client:
        client.start(job_of("masked_gram", 1)).result()
        assert all(keep_busy(kind, server.address, 0.1) for kind in KINDS)
        assert {job.state for job in client.list_jobs()} <= {pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_CANCELLED}
