"""A server that is told to end in the middle of a job that needs more time than it is given."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from intarsia import Client

from bench.report import Figure, Report
from bench.trust.jobs import Seen, Unbroken, again, job_of, spread, unbroken, watch
from bench.trust.lasting import LastingServer, lasting_server
from bench.trust.options import Options

STEPS = 250

GRACE = 6.0
"""Seconds; the half of them is kept for putting the job aside."""

INTERVAL = 0.25
"""Seconds from one checkpoint to the next."""

PATIENCE = 60.0
"""Seconds after which a server that was told to end never will."""


@dataclass(frozen=True)
class Ending:
    """A server that was told to end.

    Attributes:
        code: it exited with; None: it did not.
        seconds: that it took.
        seen: what a client saw of the job, which the next server finished.
        same: whether its picture has the bits of an unbroken run.
    """

    code: int | None
    seconds: float
    seen: Seen
    same: bool


def run(options: Options) -> Iterator[Report]:
    """Ends servers, one after the other, each with a job that the next one has to finish."""
    chance = random.Random(f"{options.seed} terminate")
    settings = {"checkpoint_seconds": INTERVAL, "drain_seconds": GRACE}
    with lasting_server(**settings) as server, Client(server.address) as client, ThreadPoolExecutor(1) as pool:
        (job,) = unbroken(client, [job_of("blended", STEPS)])
        # Later, and it would be done before it is put aside.
        latest = max(0.0, job.seconds - GRACE / 2)
        endings = [
            end_one(server, client, pool, job, delay=chance.uniform(0, latest)) for _ in range(options.terminations)
        ]
    yield report_of(endings)


def end_one(server: LastingServer, client: Client, pool: ThreadPoolExecutor, job: Unbroken, *, delay: float) -> Ending:
    """Ends the server so many seconds after it was sent a job, and starts another."""
    future = pool.submit(watch, client, again(job.request))
    time.sleep(delay)
    began = time.monotonic()
    code = server.terminate(PATIENCE)
    seconds = time.monotonic() - began
    server.start()
    seen = future.result()
    return Ending(code, seconds, seen, seen.image == job.image)


def report_of(endings: Sequence[Ending]) -> Report:
    """Jobs that were done before the server had ended show nothing, so there should be few of them."""
    about = f"{len(endings)} SIGTERMs during a job"
    figures = (
        Figure(name=f"{about}: exit codes other than 0", goal=0, measured=sum(ending.code != 0 for ending in endings)),
        Figure(
            name=f"{about}: longest way to the exit", goal=GRACE, measured=max(end.seconds for end in endings), unit="s"
        ),
        Figure(
            name=f"{about}: jobs that the next start did not finish, or with other bits",
            goal=0,
            measured=sum(not (ending.seen.whole and ending.same) for ending in endings),
        ),
    )
    facts = {
        "seconds": spread([ending.seconds for ending in endings]),
        "errors": [ending.seen.error for ending in endings if ending.seen.error],
        "left to the next start": sum(bool(ending.seen.resumed) for ending in endings),
    }
    return Report(name="terminate", figures=figures, facts=facts)
