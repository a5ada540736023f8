"""Who is next: the waiting jobs, in fair turns between clients."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobState

FIRST_GUESS = 30.0
"""Seconds that a job counts as when nothing is known of it or of any like it."""

LEAST = 0.001
"""Seconds that any job counts as, so that turns pass on whatever the estimates say."""


class FairQueue:
    """Jobs that wait. Each client's run in the order they came; between clients, who has had the least work is next.

    Work is counted in seconds (start-time fair queueing): a client with large jobs has fewer turns than one with small
    ones. Who has not been there for a while begins with what others have had by then: idling earns nothing.
    """

    def __init__(self) -> None:
        # By client; those without a waiting job are not in it. Of equals, the first in it is next.
        self._waiting: dict[str, deque[Job]] = {}
        # Seconds that a client has had, on a clock that all share and that no client falls behind.
        self._had: dict[str, float] = {}
        self._clock = 0.0
        # What a job that was taken has cost its client, while it runs, and how many waited then.
        self._charged: WeakKeyDictionary[Job, tuple[float, int]] = WeakKeyDictionary()
        # What the last job of a kind took.
        self._usual: dict[str, float] = {}

    def append(self, job: Job) -> None:
        """Adds a job behind its client's others."""
        self._of(job.client).append(job)

    def append_left(self, job: Job) -> None:
        """Puts a job that was taken, and has to be run again, at its client's head; what it had cost is given back."""
        jobs = self._of(job.client)
        self._had[job.client] -= self._charged.pop(job, (0.0, 1))[0]
        jobs.appendleft(job)

    def pop(self) -> Job:
        """Takes the next job; its client has had its seconds.

        Raises:
            IndexError: none waits.
        """
        if not self._waiting:
            raise IndexError("no job waits")
        client = min(self._waiting, key=self._had.__getitem__)
        job = self._waiting[client].popleft()
        seconds = self.seconds_of(job)
        self._charged[job] = seconds, len(self._waiting)
        self._clock = max(self._clock, self._had[client])
        self._had[client] += seconds
        self._forget_idle(client)
        return job

    def settle(self, job: Job, seconds: float) -> None:
        """Replaces what a job was thought to take, which its client was charged, by what it took until it ended."""
        if job.state is JobState.SUCCEEDED:
            self._usual[job.request.kind] = seconds
        seconds = max(seconds, LEAST)
        charged, waited = self._charged.pop(job, (seconds, 1))
        self._had[job.client] = self._had.get(job.client, self._clock) + seconds - charged
        # What each who waited would have had of it. Newcomers start there: were the clock to stand still, they would
        # all be before whoever has had one job; were it ahead of what has been done, they would starve.
        self._clock += seconds / waited

    def remove(self, job: Job) -> None:
        """Takes a job out that is not going to run.

        Raises:
            ValueError: it does not wait.
        """
        if job.client not in self._waiting:
            raise ValueError(f"job {job.job_id} does not wait")
        self._waiting[job.client].remove(job)
        self._forget_idle(job.client)

    def __len__(self) -> int:
        """Jobs that wait."""
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Job]:
        """In the order in which they will be taken, if no other comes and each takes as long as is thought."""
        return (job for job in self._turns() if job is not None)

    def ahead(self, client: str) -> list[Job]:
        """Those that would be taken before one more job of that client."""
        jobs: list[Job] = []
        for job in self._turns(client):
            if job is None:
                break
            jobs.append(job)
        return jobs

    def count(self, client: str) -> int:
        """Jobs of a client that wait."""
        return len(self._waiting.get(client, ()))

    def memory(self) -> int:
        """Bytes that the waiting jobs are thought to take, as far as that is known."""
        return sum(job.memory for jobs in self._waiting.values() for job in jobs)

    def seconds_of(self, job: Job) -> float:
        """What a job counts as: its estimate, else what the last of its kind took."""
        seconds = job.seconds if job.seconds is not None else self._usual.get(job.request.kind, FIRST_GUESS)
        return max(seconds, LEAST)

    def _of(self, client: str) -> deque[Job]:
        """A client's waiting jobs; one that comes, or comes back, starts at the clock at the earliest."""
        if client not in self._waiting:
            self._waiting[client] = deque()
            self._had[client] = self._start(client)
        return self._waiting[client]

    def _start(self, client: str) -> float:
        return max(self._clock, self._had.get(client, 0.0))

    def _forget_idle(self, client: str) -> None:
        """Keeps what is known of clients bounded: one that waits for nothing and is not ahead of the clock is new."""
        if not self._waiting[client]:
            del self._waiting[client]
        idle = [name for name, had in self._had.items() if had <= self._clock and name not in self._waiting]
        for name in idle:
            del self._had[name]

    def _turns(self, newcomer: str | None = None) -> Iterator[Job | None]:
        """The waiting jobs in turn, and None where a further job of the newcomer would be."""
        lines: dict[str, list[Job | None]] = {client: list(jobs) for client, jobs in self._waiting.items()}
        if newcomer is not None:
            lines.setdefault(newcomer, []).append(None)
        turns = [(self._had.get(client, 0.0), number, client, 0) for number, client in enumerate(lines)]
        if newcomer is not None and newcomer not in self._waiting:
            turns[-1] = (self._start(newcomer), *turns[-1][1:])
        heapq.heapify(turns)
        while turns:
            had, number, client, index = heapq.heappop(turns)
            job = lines[client][index]
            yield job
            if job is not None and index + 1 < len(lines[client]):
                heapq.heappush(turns, (had + self.seconds_of(job), number, client, index + 1))
