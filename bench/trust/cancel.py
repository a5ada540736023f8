"""How soon after a cancel the worker has turned to the next job."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from intarsia import Client
from intarsia.v1 import style_transfer_pb2 as pb

from bench.report import Figure, Report
from bench.trust.jobs import job_of, percentile, spread, watch
from bench.trust.options import Options
from bench.trust.server import running_server

ALLOWANCE = 0.1
"""Seconds, beyond a step."""

STEPS = 40
"""Of the jobs before and after all cancels that tell how long a step takes."""

STEPS_BEFORE = 12.0
"""A cancel comes at a random moment before so many steps would be done."""


@dataclass(frozen=True)
class Cancelled:
    """A job that was cancelled while another one waited.

    Attributes:
        seconds: from the cancel to the start of the other one.
        by_name: by CancelJob; else by ending its call.
        kept: whether the job ended as cancelled, and the other one with its picture.
    """

    seconds: float
    by_name: bool
    kept: bool


def run(options: Options) -> Iterator[Report]:
    """Cancels jobs one after the other, each at a random moment, while another one waits."""
    chance = random.Random(f"{options.seed} cancel")
    with running_server(threads=1) as server, Client(server.address) as client:
        server.wait_until_ready()
        steps = [*watch(client, job_of("masked_gram", STEPS)).step_seconds]
        span = STEPS_BEFORE * statistics.median(steps)
        runs = [
            cancel_one(client, by_name=chance.random() < 0.5, delay=chance.uniform(0, span))
            for _ in range(options.cancels)
        ]
        steps += watch(client, job_of("masked_gram", STEPS)).step_seconds
    yield report_of(runs, step=statistics.median(steps))


def report_of(runs: list[Cancelled], *, step: float) -> Report:
    """Where a step takes so many seconds."""
    seconds = [run.seconds for run in runs]
    about = f"{len(runs)} cancels"
    figures = (
        Figure(
            name=f"{about}: from the cancel to the next job's start, p99 (a step + 0.1 s)",
            goal=step + ALLOWANCE,
            measured=percentile(seconds, 0.99),
            unit="s",
        ),
        Figure(
            name=f"{about}: jobs that did not end as they should", goal=0, measured=sum(not run.kept for run in runs)
        ),
    )
    facts = {
        "step": step,
        "seconds": spread(seconds),
        "by CancelJob": sorted(run.seconds for run in runs if run.by_name),
        "by ending the call": sorted(run.seconds for run in runs if not run.by_name),
    }
    return Report(name="cancel", figures=figures, facts=facts)


def cancel_one(client: Client, *, by_name: bool, delay: float) -> Cancelled:
    """Cancels one job so many seconds after a worker has taken it.

    Args:
        client: of a server without other jobs.
        by_name: as of `Cancelled`.
        delay: in seconds.
    """
    endless = job_of("masked_gram", 10_000)
    endless.on_disconnect = pb.ON_DISCONNECT_CANCEL
    job = client.start(endless)
    next(job)
    other = client.start(job_of("masked_gram", 1))
    next(other)
    time.sleep(delay)
    began = time.time()
    if by_name:
        client.cancel_job(job.job_id)
    else:
        job.cancel()
    image = other.result().image
    started = client.get_job(other.job_id).start_time.ToNanoseconds() / 1e9
    ended = client.get_job(job.job_id)
    return Cancelled(
        seconds=started - began,
        by_name=by_name,
        kept=bool(image) and ended.state == pb.JOB_STATE_CANCELLED,
    )
