"""How long to wait for a server that cannot be reached, and when to give up."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import grpc

from intarsia.errors import IntarsiaError

__all__ = ["REATTACH_SECONDS", "Patience"]

REATTACH_SECONDS = 60.0
"""How long a job is held on to by default while its server cannot be reached."""

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 5.0

_logger = logging.getLogger("intarsia")


class Patience:
    """Times the tries after a break: ever rarer, with jitter, so that clients do not come back all at once.

    Args:
        timeout: Seconds from now after which nothing is tried any more; None: never.
        reattach_seconds: From the last sign of life on, how long to try again; 0: not at all. A break that is noticed
            later than that is still followed by one try.
        clock: Seconds, for tests.
        jitter: 0 to 1, for tests.
    """

    def __init__(
        self,
        timeout: float | None = None,
        reattach_seconds: float = REATTACH_SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._reattach_seconds = reattach_seconds
        self._deadline = None if timeout is None else clock() + timeout
        self._last_sign = clock()
        self._tries = 0
        self._break: IntarsiaError | None = None

    def remaining(self, most: float | None = None) -> float | None:
        """Returns the seconds until the deadline, 0 after it, but at most `most`; None: no end."""
        left = None if self._deadline is None else max(self._deadline - self._clock(), 0.0)
        return most if left is None else left if most is None else min(left, most)

    def sign_of_life(self, *, progress: bool) -> None:
        """Notes that something has arrived.

        Args:
            progress: It was something new. Without any, tries keep getting rarer: a server that breaks off after every
                greeting is not to be hammered.
        """
        now = self._clock()
        if self._break is not None:
            _logger.info("attached again after %.1f s (%s)", now - self._last_sign, self._break)
            self._break = None
        self._last_sign = now
        if progress:
            self._tries = 0

    def delay(self, error: IntarsiaError) -> float:
        """Returns the seconds to wait until the next try after a break.

        Raises:
            IntarsiaError: Patience has run out: the error that the break began with, or DEADLINE_EXCEEDED.
        """
        self._break = self._break or error
        left = self._reattach_seconds - (self._clock() - self._last_sign)
        if self._reattach_seconds <= 0 or (self._tries and left <= 0):
            raise self._break
        remaining = self.remaining()
        if remaining == 0:
            raise IntarsiaError(grpc.StatusCode.DEADLINE_EXCEEDED, f"the deadline has passed after a break ({error})")
        if self._tries == 1:
            _logger.info("the server cannot be reached (%s): trying for %.0f s", self._break, max(left, 0))
        delay = min(_FIRST_DELAY * 2.0**self._tries, _LONGEST_DELAY) * (0.5 + 0.5 * self._jitter())
        self._tries += 1
        return min(delay, delay if left <= 0 else left, delay if remaining is None else remaining)
