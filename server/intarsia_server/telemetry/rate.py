"""How often something has happened lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW = 10
"""Seconds."""


class Rate:
    """Counts by the second; a reader in another thread may see a count too few."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: deque[tuple[int, int]] = deque(maxlen=WINDOW + 1)

    def add(self) -> None:
        """It has happened."""
        second = int(self._clock())
        if self._counts and self._counts[-1][0] == second:
            self._counts[-1] = (second, self._counts[-1][1] + 1)
        else:
            self._counts.append((second, 1))

    def per_second(self) -> float:
        """Over the last `WINDOW` whole seconds."""
        now = int(self._clock())
        return sum(count for second, count in tuple(self._counts) if now - WINDOW <= second < now) / WINDOW
