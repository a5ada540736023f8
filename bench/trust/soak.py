"""Everything at once, for a long time: clients of all kinds, a bad network, workers and servers that are killed."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from intarsia import Client, IntarsiaError
from intarsia.v1 import style_transfer_pb2 as pb

from bench.report import Figure, Report
from bench.trust.jobs import Unbroken, again, job_of, unbroken, watch
from bench.trust.lasting import LastingServer, lasting_server
from bench.trust.options import Options
from bench.trust.proxy import FaultProxy

CLIENTS = 4
STEPS = 40
METHODS = ("masked_gram", "blended", "sequential")

CALM = (1.0, 8.0)
"""Seconds from one mishap to the next."""

GRACE = 3.0
"""Seconds that a server has after SIGTERM."""

PATIENCE = 300.0
"""Seconds for which a client looks for its server, and for which a job may be on its way once all is quiet."""

SETTINGS = {"checkpoint_seconds": 0.5, "drain_seconds": GRACE, "result_chunk_bytes": 4096, "queue_capacity": 8}

Value = TypeVar("Value")


class DefectError(Exception):
    """Something was seen that should not have been."""


@dataclass
class Tally:
    """What has come of the jobs.

    Attributes:
        done: jobs by how they were asked for.
        cancelled: request ids of jobs that their client did not want any more.
        wrong: what should not have been seen.
        mishaps: by kind.
    """

    done: Counter[str] = field(default_factory=Counter)
    cancelled: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    mishaps: Counter[str] = field(default_factory=Counter)


def run(options: Options) -> Iterator[Report]:
    """One report."""
    yield report_of(soak(options.soak_seconds, options.seed), options.soak_seconds)


def soak(seconds: float, seed: int) -> Tally:
    """Clients and mishaps for so long, then quiet, until every job has ended."""
    tally = Tally()
    with lasting_server(**SETTINGS) as server:
        with Client(server.address) as client:
            jobs = unbroken(client, [job_of(method, STEPS) for method in METHODS])
        until = time.monotonic() + seconds
        with FaultProxy(server.address) as proxy, ThreadPoolExecutor(CLIENTS) as pool:
            clients = [
                pool.submit(_be_client, proxy.address, jobs, until, random.Random(f"{seed} {number}"), tally)
                for number in range(CLIENTS)
            ]
            _do_harm(server, proxy, until, random.Random(f"{seed} harm"), tally)
            for one in clients:
                one.result()
        _look_at_jobs(server, tally)
        log = server.server.log_file.read_text()
        if server.terminate(PATIENCE) != 0:
            tally.wrong.append("the server did not end well")
        tally.wrong += [line for line in log.splitlines() if line.startswith(("Traceback", "Fatal"))]
        tally.wrong += list(_look_at_disk(server.data))
    return tally


def report_of(tally: Tally, seconds: float) -> Report:
    """Every defect is told."""
    name = f"{seconds:g} s of soak, {tally.done.total()} jobs, {tally.mishaps.total()} mishaps: defects"
    facts = {"jobs": dict(tally.done), "mishaps": dict(tally.mishaps), "defects": tally.wrong}
    return Report(name="soak", figures=[Figure(name=name, goal=0, measured=len(tally.wrong))], facts=facts)


def _be_client(address: str, jobs: Sequence[Unbroken], until: float, chance: random.Random, tally: Tally) -> None:
    """Sends one job after the other."""
    ways = {"watched": 5, "left and fetched": 2, "uploaded": 2, "cancelled": 1}
    with Client(address, reattach_seconds=PATIENCE) as client:
        while time.monotonic() < until:
            job = chance.choice(jobs)
            (way,) = chance.choices(list(ways), list(ways.values()))
            request = again(job.request)
            try:
                image = _WAYS[way](client, request, chance)
            except (IntarsiaError, DefectError) as error:
                tally.wrong.append(f"{way}: {error}")
                continue
            tally.done[way] += 1
            if way == "cancelled":
                tally.cancelled.add(request.request_id)
            if image != job.image and (image or way != "cancelled"):
                tally.wrong.append(f"{way}: other bits than unbroken")


def _watched(client: Client, request: pb.StylizeRequest, _: random.Random) -> bytes:
    """To its end; every event once and in order."""
    seen = watch(client, request)
    if not seen.whole:
        raise DefectError(seen.error or "events that came twice, or an end that did not come once")
    return seen.image


def _left(client: Client, request: pb.StylizeRequest, chance: random.Random) -> bytes:
    """Sent, left alone, and asked for later."""
    job = client.start(request, wait_when_busy=PATIENCE)
    next(job)
    job.close()
    time.sleep(chance.uniform(0, 2))
    return client.watch(job.job_id).result().image


def _uploaded(client: Client, request: pb.StylizeRequest, chance: random.Random) -> bytes:
    """With its content sent ahead."""
    request.content.CopyFrom(client.upload(request.content.data))
    return _watched(client, request, chance)


def _cancelled(client: Client, request: pb.StylizeRequest, chance: random.Random) -> bytes:
    """Not wanted any more, after a while; said again until the server has heard it."""
    job = client.start(request, wait_when_busy=PATIENCE)
    next(job)
    time.sleep(chance.uniform(0, 1))
    while True:
        try:
            client.cancel_job(job.job_id)
            break
        except IntarsiaError as error:
            if error.code not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise
            time.sleep(0.5)
    try:
        return job.result().image
    except IntarsiaError as error:
        if error.code is not grpc.StatusCode.CANCELLED:
            raise
        return b""


_WAYS: dict[str, Callable[[Client, pb.StylizeRequest, random.Random], bytes]] = {
    "watched": _watched,
    "left and fetched": _left,
    "uploaded": _uploaded,
    "cancelled": _cancelled,
}


def _do_harm(server: LastingServer, proxy: FaultProxy, until: float, chance: random.Random, tally: Tally) -> None:
    """One mishap after the other, then a network without faults."""
    mishaps: dict[str, tuple[int, Callable[[], object]]] = {
        "cut": (4, proxy.cut),
        "reset": (4, proxy.reset),
        "half close": (2, proxy.half_close),
        "slow": (2, lambda: _for_a_while(proxy.delay, 0.05, 0.0, chance)),
        "unreachable": (2, lambda: _for_a_while(proxy.refuse, True, False, chance)),
        "worker killed": (3, server.kill_worker),
        "server killed": (2, lambda: _restart(server, server.kill)),
        "server told to end": (1, lambda: _restart(server, lambda: server.terminate(PATIENCE))),
    }
    while time.monotonic() < until:
        time.sleep(chance.uniform(*CALM))
        (what,) = chance.choices(list(mishaps), [weight for weight, _ in mishaps.values()])
        tally.mishaps[what] += 1
        mishaps[what][1]()


def _for_a_while(do: Callable[[Value], None], harm: Value, well: Value, chance: random.Random) -> None:
    do(harm)
    time.sleep(chance.uniform(0.5, 3))
    do(well)


def _restart(server: LastingServer, end: Callable[[], object]) -> None:
    end()
    server.start()


def _look_at_jobs(server: LastingServer, tally: Tally) -> None:
    """Whether the server has every job once, ended as its client saw it."""
    with Client(server.address) as client:
        listed = list(client.list_jobs())
    for request_id, count in Counter(job.request_id for job in listed).items():
        if count > 1:
            tally.wrong.append(f"{count} jobs of one request {request_id}")
    for job in listed:
        expected = {pb.JOB_STATE_SUCCEEDED}
        if job.request_id in tally.cancelled:
            expected = {pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_CANCELLED}
        if job.state not in expected:
            tally.wrong.append(f"job {job.job_id} is {pb.JobState.Name(job.state)}")
    wanted = tally.done.total() + 2 * len(METHODS)
    if len(listed) != wanted and not tally.wrong:
        tally.wrong.append(f"the server has {len(listed)} jobs, {wanted} were seen")


def _look_at_disk(data: Path) -> Iterator[str]:
    """Whether an ended server has left nothing behind but what it keeps on purpose, and that whole."""
    for name in ("inputs", "checkpoints"):
        left = [path.name for path in (data / name).iterdir()]
        if left:
            yield f"{len(left)} files left in {name}"
    with closing(sqlite3.connect(data / "jobs.sqlite3")) as records:
        (verdict,) = records.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        yield f"jobs.sqlite3: {verdict}"
