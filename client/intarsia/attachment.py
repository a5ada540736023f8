"""Holding on to one job over broken connections: what to call next, and which events to hand on. No I/O."""

from __future__ import annotations

import enum
import logging
import random
import time
from collections.abc import Callable

import grpc

from intarsia.errors import IntarsiaError
from intarsia.jobs import job_error
from intarsia.patience import REATTACH_SECONDS, Patience
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Attachment", "Call", "stopped"]

_CANCEL_SECONDS = 5.0
_PROMPT_SECONDS = 1.0
_ASK_SECONDS = 10.0
_STEP_SECONDS = 60.0
"""Within which a cancel takes effect, which is one step."""

# What both a lost connection and a job can end with: after one of these, the server is asked how the job stands.
_BREAKS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

_logger = logging.getLogger("intarsia")


class Call(enum.Enum):
    """What to call next."""

    STYLIZE = enum.auto()
    """Send the request: for the first time, or once more, since no answer came."""
    GET_JOB = enum.auto()
    """Ask how the job stands after a break, tell `found`, and look here again."""
    WATCH_JOB = enum.auto()
    """Watch the job's events after `sequence`."""


class Attachment:
    """One caller's hold on one job, from the request or the job's id to its end.

    Whoever does the calls keeps to this: make the call that `next` names, with `timeout`; give each event to `take`,
    and hand it on if that says so; give each failure to `failed`, wait as long as that says, and start over.

    Args:
        job_id: Of a job that is to be watched; empty: a request is to be sent.
        after_sequence: The number of the last event that the caller has.
        detached: The job goes on when nobody watches it.
        timeout: Seconds until the job's deadline; None: none.
        reattach_seconds: As of `Patience`.
        wait_when_busy: How many seconds a full queue may be waited for.
        clock: Seconds, for tests.
        jitter: 0 to 1, for tests.

    Attributes:
        next: What to call.
        job_id: Empty until the job was accepted.
        sequence: The number of the last event that was handed on.
        partial: Whether events may be missing that came before, or in a break.
    """

    def __init__(
        self,
        job_id: str = "",
        after_sequence: int = 0,
        *,
        detached: bool = False,
        timeout: float | None = None,
        reattach_seconds: float = REATTACH_SECONDS,
        wait_when_busy: float = 0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.next = Call.WATCH_JOB if job_id else Call.STYLIZE
        self.job_id = job_id
        self.sequence = after_sequence
        self.partial = after_sequence > 0
        self.patience = Patience(timeout, reattach_seconds, clock=clock, jitter=jitter)
        self._clock = clock
        self._jitter = jitter
        self._break: IntarsiaError | None = None
        self._may_send_anew = not job_id
        # A job that is not detached ends with the call that sent it: with a connection, then, that the client did not
        # want to lose.
        self._bound = not job_id and not detached
        self._cut = False
        self._attached_after_cut: float | None = None
        self._wait_when_busy = wait_when_busy
        self._busy_since: float | None = None

    @property
    def timeout(self) -> float | None:
        """Seconds that the next call may take; None: any."""
        return self.patience.remaining(_ASK_SECONDS if self.next is Call.GET_JOB else None)

    @property
    def lasting(self) -> bool:
        """Whether ending the call does nothing to the job, which then can be cancelled by its id alone."""
        return not self._bound or self.next is not Call.STYLIZE

    @property
    def cancel_seconds(self) -> float:
        """How long a cancel by the job's id waits for a server that cannot be reached.

        It ends the job at once; where the end of the call ends it too, a little later, it is not worth a wait.
        """
        return _CANCEL_SECONDS if self.lasting else _PROMPT_SECONDS

    def take(self, response: pb.StylizeResponse) -> bool:
        """Takes the next event that arrived; False: it was handed on before."""
        event = response.WhichOneof("event")
        self._break = self._busy_since = None
        new = response.sequence > self.sequence
        self.patience.sign_of_life(progress=new and event not in ("heartbeat", "snapshot"))
        match event:
            case "accepted":
                self.job_id = response.accepted.job_id
            case "snapshot":
                self.job_id = response.snapshot.job.job_id
                self.partial = True
            case "heartbeat":
                return True
        if event == "snapshot" or new:
            self.sequence = response.sequence
            return True
        return False

    def found(self, job: pb.Job) -> bool:
        """Takes the answer to GET_JOB; True: the next STYLIZE needs a fresh request id.

        Raises:
            IntarsiaError: The job's own: what looked like a break was its end.
        """
        error = job_error(job)
        if self._cancelled_by_cut(job):
            self._send_anew("the server cancelled the job when the connection broke")
            return True
        if error is not None and error.code in _BREAKS:
            # The one that came over the stream may have details.
            same = self._break is not None and self._break.code is error.code and self._break.message == error.message
            raise self._break if same and self._break is not None else error
        self.next = Call.WATCH_JOB
        if self._cut and self._attached_after_cut is None:
            self._attached_after_cut = self._clock()
        return False

    def failed(self, error: IntarsiaError) -> float:
        """Takes the failure of a call, sets `next`, and returns the seconds to wait before it.

        Raises:
            IntarsiaError: The last word: the job's own end, or the error that the break began with.
        """
        asking = self.next is Call.GET_JOB
        if self.next is Call.STYLIZE and error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self._wait_for_a_place(error)
        if error.code is grpc.StatusCode.NOT_FOUND and self._break is not None and self._may_send_anew:
            self._send_anew("the server has come back without the job")
            return 0
        if asking and error.code is grpc.StatusCode.UNIMPLEMENTED:
            raise self._break or error  # an older server, whose jobs end with their calls
        too_slow = asking and error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        lost = error.code is grpc.StatusCode.UNAVAILABLE or (bool(self.job_id) and error.code in _BREAKS)
        if not (too_slow or lost):
            raise error
        if self.job_id and not asking and error.code is grpc.StatusCode.UNAVAILABLE:
            self._cut, self._attached_after_cut = self._bound, None
        self._break = self._break or error
        self.partial = bool(self.job_id)
        self.next = Call.GET_JOB if self.job_id else Call.STYLIZE
        return self.patience.delay(error)

    def _cancelled_by_cut(self, job: pb.Job) -> bool:
        if job.state != pb.JOB_STATE_CANCELLED or not (self._cut and self._may_send_anew):
            return False
        # A cancel long after it is somebody's will.
        since = self._attached_after_cut
        return since is None or self._clock() - since <= _STEP_SECONDS

    def _send_anew(self, why: str) -> None:
        """Begins again with the request; once only, since what led to it may come again for ever."""
        _logger.info("%s: it is sent anew", why)
        self._may_send_anew = self._cut = self.partial = False
        self.next, self.job_id, self.sequence, self._break = Call.STYLIZE, "", 0, None

    def _wait_for_a_place(self, error: IntarsiaError) -> float:
        now = self._clock()
        self._busy_since = now if self._busy_since is None else self._busy_since
        hint, left = error.retry_after_seconds, self._wait_when_busy - (now - self._busy_since)
        remaining = self.patience.remaining()
        if hint is None or hint > left or (remaining is not None and hint >= remaining):
            raise error
        _logger.info("the server is busy: trying again in %.0f s", hint)
        # A little later than told, each client by another time.
        return hint + min(0.1 * hint * self._jitter(), left - hint)


def stopped() -> IntarsiaError:
    """Returns the error for whoever goes on asking for events after a cancel, or after leaving."""
    return IntarsiaError(grpc.StatusCode.CANCELLED, "this client has cancelled the job, or left it to itself")
