"""How long the next job would wait."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from intarsia_server.jobs.model import Job


def expected_wait(
    jobs: Iterable[Job], slots: int, seconds_of: Callable[[Job], float | None], *, now: float
) -> float | None:
    """Seconds until a worker would take one more job.

    Args:
        jobs: that wait or run, in the order they came.
        slots: how many run at a time.
        seconds_of: how long a job takes from its start; None: not known.
        now: monotonic seconds.

    Returns:
        None where it hangs on a job that nothing is known of.
    """
    free_in = [0.0] * slots
    heapq.heapify(free_in)
    for job in jobs:
        seconds = seconds_of(job)
        if seconds is None:
            return None
        began = 0.0 if job.started_at is None else job.started_at - now
        # One that runs late may end any moment.
        heapq.heappush(free_in, heapq.heappop(free_in) + max(0.0, began + seconds))
    return free_in[0] if free_in else None
