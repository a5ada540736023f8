"""The order in which waiting jobs are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from intarsia_server.jobs.model import Job


class FairQueue:
    """Jobs that wait."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def append(self, job: Job) -> None:
        """Adds a job behind the others."""
        self._jobs.append(job)

    def append_left(self, job: Job) -> None:
        """Adds a job that had begun before the others."""
        self._jobs.appendleft(job)

    def pop(self) -> Job:
        """Takes the next one.

        Raises:
            IndexError: none waits.
        """
        return self._jobs.popleft()

    def remove(self, job: Job) -> None:
        """Takes one out of turn.

        Raises:
            ValueError: it does not wait.
        """
        self._jobs.remove(job)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        """In the order in which they will be taken."""
        return iter(self._jobs)
