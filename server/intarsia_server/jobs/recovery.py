"""A job of an earlier server, made again of its record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from intarsia_server.engine.request import Work
from intarsia_server.jobs.archive import Archive
from intarsia_server.jobs.errors import InputLostError, ServerDiedError
from intarsia_server.jobs.events import AcceptedEvent
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord

EPOCH = 10**9
"""Events of a job that goes on after a server's start are numbered from the next multiple of this: how many had been
sent before is not known then, and a number must never be used twice."""


async def revived(record: JobRecord, archive: Archive, revive: Callable[[bytes], Work]) -> Job:
    """The job, waiting, with its events numbered anew.

    Args:
        record: with the epoch that the job is to have.
        archive: where its request is.
        revive: makes a payload's data a request again; it may raise what the executor may. Blocks.

    Raises:
        ServerDiedError: nothing is kept that it could go on with.
        InputLostError: what is kept has been damaged.
        Exception: as `revive`.
    """
    if not record.payload:
        raise ServerDiedError("the server ended before the job was done")
    try:
        payload = await archive.input(record)
    except KeyError as error:
        raise InputLostError("the job's input has been damaged on the server") from error
    job = Job(
        record.job_id,
        record.request_id,
        await asyncio.to_thread(revive, payload),
        record.size,
        record.areas,
        record.client,
        record.owner,
        record.memory,
        record.seconds,
        record.payload,
        created_at=record.created_at,
        began_at=record.began_at,
        attempts=record.attempts,
        epoch=record.epoch,
    )
    job.log.publish(AcceptedEvent(job.job_id, job.request_id, 0, *job.size), at=job.created_at)
    job.log.skip_to(job.epoch * EPOCH)
    return job
