"""Why a job is not taken, not found, or not done."""

from __future__ import annotations


class DrainingError(RuntimeError):
    """The server is on its way down and takes no new job, or cannot finish this one."""


class ServerDiedError(RuntimeError):
    """The server ended while it had a job that does not outlive it."""


class DuplicateRequestError(RuntimeError):
    """There is a job with this request id, and it is another one."""


class UnknownJobError(LookupError):
    """There is no such job, or it is somebody else's."""


class InputLostError(RuntimeError):
    """What a job was to work on has been damaged on the server's disk."""


class JobCancelledError(RuntimeError):
    """The job was cancelled."""
