"""A job's state in people's words, and what its end means."""

from __future__ import annotations

from collections.abc import Iterable

import grpc

from intarsia.errors import IntarsiaError, RequestError
from intarsia.parameters import enum_names, unknown
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["build_list_request", "job_error", "named", "state_name", "state_names"]

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def state_names() -> list[str]:
    """Returns the states of a job as they are typed: "queued", "running" and so on."""
    return list(enum_names(pb.JobState.DESCRIPTOR))


def state_name(job: pb.Job) -> str:
    """Returns a job's state as it is typed; "unknown" for one that this client is too old for."""
    return next((name for name, number in enum_names(pb.JobState.DESCRIPTOR).items() if number == job.state), "unknown")


def build_list_request(states: Iterable[str], page_size: int) -> pb.ListJobsRequest:
    """Builds the request for the first page of jobs.

    Raises:
        RequestError: A name that is no state's.
    """
    known = enum_names(pb.JobState.DESCRIPTOR)
    request = pb.ListJobsRequest(page_size=page_size)
    for name in states:
        if name not in known:
            raise unknown("state", name, known)
        request.states.append(pb.JobState.ValueType(known[name]))
    return request


def job_error(job: pb.Job) -> IntarsiaError | None:
    """Returns the status that a job failed or was cancelled with; None for any other job."""
    if job.state not in (pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED):
        return None
    code = _CODES.get(job.error_code, grpc.StatusCode.UNKNOWN)
    return IntarsiaError(code, job.error_message or "no message")


def named(job_id: str) -> str:
    """Returns a job's name as it is.

    Raises:
        RequestError: It is empty: nobody's.
    """
    if not job_id:
        raise RequestError("job_id is empty: a job has its name once its first event has arrived")
    return job_id
