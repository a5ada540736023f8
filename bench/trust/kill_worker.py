"""A worker that is killed in the middle of a job."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from intarsia import Client

from bench.report import Figure, Report
from bench.trust.jobs import Seen, Unbroken, again, job_of, percentile, spread, unbroken, watch
from bench.trust.lasting import LastingServer, lasting_server
from bench.trust.options import Options

STEPS = 60
METHODS = ("masked_gram", "blended", "sequential")

INTERVAL = 0.25
"""Seconds from one checkpoint to the next."""

WRITING = 0.05
"""Share of an interval that a checkpoint may take to be written."""

KILLED_AGAIN = 0.2
"""Share of the runs in which the next worker is killed too, while it starts."""

STARTING = 1.5
"""Seconds, less than a worker takes to start."""


@dataclass(frozen=True)
class Hit:
    """A job whose worker was killed.

    Attributes:
        seen: what its client saw.
        same: whether its picture has the bits of an unbroken run.
        redone: steps that were taken twice.
        seconds: that those took the first time.
    """

    seen: Seen
    same: bool
    redone: int
    seconds: float


def run(options: Options) -> Iterator[Report]:
    """Kills workers until so many jobs were hit."""
    chance = random.Random(f"{options.seed} kill-worker")
    with lasting_server(checkpoint_seconds=INTERVAL) as server, Client(server.address) as client:
        jobs = unbroken(client, [job_of(method, STEPS) for method in METHODS])
        hits = list(hits_of(server, client, jobs, options.worker_kills, chance))
    yield report_of(hits, step=percentile([step for job in jobs for step in job.step_seconds], 0.99))


def hits_of(
    server: LastingServer, client: Client, jobs: Sequence[Unbroken], count: int, chance: random.Random
) -> Iterator[Hit]:
    """Runs jobs and kills the worker at random moments, until so many jobs were hit: some have ended by then."""
    found = 0
    while found < count:
        watch(client, job_of("masked_gram", 1))  # waits for a worker
        job = chance.choice(jobs)
        delays = [chance.uniform(0, job.seconds)]
        if chance.random() < KILLED_AGAIN:
            delays.append(delays[0] + chance.uniform(0, STARTING))
        seen = _watch_killed(server, client, job, delays)
        if seen.resumed or not seen.whole:
            found += 1
            redone, seconds = job.redone(seen)
            yield Hit(seen, seen.image == job.image, redone, seconds)


def report_of(hits: Sequence[Hit], *, step: float) -> Report:
    """Where a step takes so many seconds: a checkpoint is taken at the first one's end after it is due."""
    about = f"{len(hits)} jobs whose worker was killed"
    figures = (
        Figure(name=f"{about}: not finished", goal=0, measured=sum(not hit.seen.whole for hit in hits)),
        Figure(name=f"{about}: other bits than unbroken", goal=0, measured=sum(not hit.same for hit in hits)),
        Figure(
            name=f"{about}: most work redone (a checkpoint interval, its writing and a step)",
            goal=INTERVAL * (1 + WRITING) + step,
            measured=max(hit.seconds for hit in hits),
            unit="s",
        ),
    )
    facts = {
        "errors": [hit.seen.error for hit in hits if hit.seen.error],
        "steps redone": spread([hit.redone for hit in hits]),
        "seconds redone": spread([hit.seconds for hit in hits]),
        "begun anew": sum(place == ("", 0) for hit in hits for place, _ in hit.seen.resumed),
        "step": step,
    }
    return Report(name="kill-worker", figures=figures, facts=facts)


def _watch_killed(server: LastingServer, client: Client, job: Unbroken, delays: Sequence[float]) -> Seen:
    """Runs a job and kills whatever worker there is after so many seconds each."""
    timers = [threading.Timer(delay, server.kill_worker) for delay in delays]
    for timer in timers:
        timer.start()
    seen = watch(client, again(job.request))
    for timer in timers:
        timer.join()
    return seen
