"""A server that is killed in the middle of jobs, while clients wait for them and attach again by themselves."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from intarsia import Client, IntarsiaError
from intarsia.v1 import style_transfer_pb2 as pb

from bench.report import Figure, Report
from bench.trust.jobs import Seen, Unbroken, again, job_of, unbroken, watch
from bench.trust.lasting import LastingServer, lasting_server
from bench.trust.options import Options

STEPS = 45
METHODS = ("masked_gram", "blended")
INTERVAL = 0.25
"""Seconds from one checkpoint to the next."""

AT_ONCE = 2
"""Jobs, each of a client of its own: one runs while the other waits."""


@dataclass(frozen=True)
class Survivor:
    """A job that was there when the server was killed, or was just on its way.

    Attributes:
        seen: what its client saw.
        same: whether its picture has the bits of an unbroken run.
        stored: whether the server has that picture under the id that the client knows.
    """

    seen: Seen
    same: bool
    stored: bool


def run(options: Options) -> Iterator[Report]:
    """Kills servers, one after the other."""
    chance = random.Random(f"{options.seed} kill-server")
    settings = {"checkpoint_seconds": INTERVAL, "result_chunk_bytes": 4096, "queue_capacity": AT_ONCE}
    with lasting_server(**settings) as server, ThreadPoolExecutor(AT_ONCE) as pool:
        with Client(server.address) as client:
            jobs = unbroken(client, [job_of(method, STEPS) for method in METHODS])
            before = list(client.list_jobs())
        survivors = [
            survivor
            for _ in range(options.server_kills)
            for survivor in survivors_of(server, pool, [chance.choice(jobs) for _ in range(AT_ONCE)], chance)
        ]
        with Client(server.address) as client:
            listed = list(client.list_jobs())[: -len(before)]
    yield report_of(survivors, listed, kills=options.server_kills)


def survivors_of(
    server: LastingServer, pool: ThreadPoolExecutor, jobs: Sequence[Unbroken], chance: random.Random
) -> Iterator[Survivor]:
    """Kills the server once, at a random moment of those jobs, and starts another."""
    futures = [pool.submit(_watch, server.address, again(job.request)) for job in jobs]
    time.sleep(chance.uniform(0, sum(job.seconds for job in jobs)))
    server.kill()
    server.start()
    for job, future in zip(jobs, futures, strict=True):
        seen, stored = future.result()
        yield Survivor(seen, seen.image == job.image, stored == job.image)


def report_of(survivors: Sequence[Survivor], listed: Sequence[pb.Job], *, kills: int) -> Report:
    """Of all clients' jobs, and of those that the server has in the end."""
    about = f"{kills} kills of the server under {len(survivors)} jobs"
    sent = Counter(survivor.seen.request_id for survivor in survivors)
    have = Counter(job.request_id for job in listed)
    bad = sum(job.state != pb.JOB_STATE_SUCCEEDED for job in listed)
    figures = (
        Figure(name=f"{about}: lost", goal=0, measured=sum(not survivor.seen.whole for survivor in survivors)),
        Figure(name=f"{about}: done twice, or not wanted", goal=0, measured=(have - sent).total()),
        Figure(name=f"{about}: not kept, or not as succeeded", goal=0, measured=(sent - have).total() + bad),
        Figure(
            name=f"{about}: other bits than unbroken, seen or stored",
            goal=0,
            measured=sum(not (survivor.same and survivor.stored) for survivor in survivors),
        ),
    )
    facts = {
        "errors": [survivor.seen.error for survivor in survivors if survivor.seen.error],
        "attempts": dict(Counter(job.attempts for job in listed)),
        "seen to go on": sum(bool(survivor.seen.resumed) for survivor in survivors),
        "begun anew": sum(place == ("", 0) for survivor in survivors for place, _ in survivor.seen.resumed),
    }
    return Report(name="kill-server", figures=figures, facts=facts)


def _watch(address: str, request: pb.StylizeRequest) -> tuple[Seen, bytes]:
    """What a client of its own sees of a job, and the picture that the server keeps of it."""
    with Client(address) as client:
        seen = watch(client, request)
        try:
            return seen, client.result(seen.job_id).image
        except IntarsiaError as error:
            seen.error = seen.error or str(error)
            return seen, b""
