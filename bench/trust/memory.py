"""What many small jobs in a row leave in the memory of the server's processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from intarsia import Client

from bench.estimate import workers_of
from bench.report import Figure, Report
from bench.trust.jobs import STAGES, job_of, watch
from bench.trust.options import Options
from bench.trust.server import Server, resident, running_server

GROWTH = 10.0
"""MB that may be held more at the end than after the warm-up."""

WARM_UP = 0.2
"""Share of the jobs."""

STEPS = 3


def run(options: Options) -> Iterator[Report]:
    """Runs them one after the other, each with a seed of its own, and notes what is held after each."""
    with running_server(threads=1) as server, Client(server.address) as client:
        server.wait_until_ready()
        held = list(held_after(server, client, options.jobs))
    yield report_of(held)


def held_after(server: Server, client: Client, jobs: int) -> Iterator[tuple[int, int]]:
    """Bytes that the front and the worker hold after each job.

    Raises:
        RuntimeError: a job did not succeed.
    """
    (worker,) = workers_of(server.process.pid)
    methods = [*STAGES]
    for number in range(jobs):
        seen = watch(client, job_of(methods[number % len(methods)], STEPS, seed=number, preview_interval=1))
        if not seen.whole:
            raise RuntimeError(f"job {number} of {jobs}: {seen.error}")
        yield server.memory, resident(worker)


def report_of(held: Sequence[tuple[int, int]]) -> Report:
    """Of what both processes held after each job."""
    warm = int(WARM_UP * len(held))
    growth = (sum(held[-1]) - sum(held[warm - 1])) / 1e6
    about = f"{len(held)} small jobs in a row, after the first {warm}"
    figures = (Figure(name=f"{about}: growth of front and worker (MB)", goal=GROWTH, measured=growth),)
    every = max(1, len(held) // 50)
    facts = {
        "front (MB)": [round(front / 1e6, 2) for front, _ in held[::every]],
        "worker (MB)": [round(worker / 1e6, 2) for _, worker in held[::every]],
    }
    return Report(name="memory", figures=figures, facts=facts)
