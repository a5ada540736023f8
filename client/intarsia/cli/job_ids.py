"""Jobs by the beginning of their ids, as people type them."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from intarsia.client import Client
from intarsia.errors import IntarsiaError, RequestError
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["find_job", "short_ids"]

_SHORTEST = 8


def find_job(client: Client, typed: str) -> pb.Job:
    """Returns the job whose id is, or begins with, what was typed.

    Raises:
        RequestError: There is none, or there are several.
        IntarsiaError: A call failed.
    """
    if not typed:
        raise RequestError("a job's id cannot be empty")
    try:
        return client.get_job(typed)
    except IntarsiaError as error:
        if error.code not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
            raise
    matches = [job for job in client.list_jobs(page_size=1000) if job.job_id.startswith(typed)]
    if not matches:
        raise RequestError(f"there is no job {typed}: intarsia jobs list shows those that are kept")
    if len(matches) > 1:
        ids = ", ".join(job.job_id for job in matches[:5]) + (", ..." if len(matches) > 5 else "")
        raise RequestError(f"{len(matches)} jobs begin with {typed}: {ids}")
    return matches[0]


def short_ids(jobs: Sequence[pb.Job]) -> list[str]:
    """Returns the beginnings of the jobs' ids, as long as it takes to tell these jobs apart, at least 8 characters."""
    length = _SHORTEST
    longest = max((len(job.job_id) for job in jobs), default=0)
    while length < longest and len({job.job_id[:length] for job in jobs}) < len(jobs):
        length += 1
    return [job.job_id[:length] for job in jobs]
