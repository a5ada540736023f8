"""Clients of every kind that keep a server as busy as they can. Each kind is a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping

from intarsia import AsyncClient, IntarsiaError

from bench.trust.jobs import job_of

WATCHERS, OTHERS = 20, 4
"""Clients that watch one job together; clients of each other kind."""

STEPS = 100
UPLOAD_BYTES = 4 * 2**20

Turn = Callable[[AsyncClient, int], Awaitable[None]]
"""One thing that a client does again and again; the number is another one each time."""


def keep_busy(kind: str, address: str, seconds: float) -> int:
    """Runs the clients of a kind for so long; how many turns they have had."""
    return asyncio.run(_keep_busy(_KINDS[kind], address, time.monotonic() + seconds))


async def _keep_busy(turn: Turn, address: str, until: float) -> int:
    numbers = itertools.count()

    async def go_on(client: AsyncClient) -> None:
        while time.monotonic() < until:
            try:
                await turn(client, next(numbers))
            except IntarsiaError:  # refused: that is an answer too
                await asyncio.sleep(0.05)

    clients = 1 if turn is _watch else OTHERS
    async with AsyncClient(address) as client:
        await asyncio.gather(*(go_on(client) for _ in range(clients)))
    return next(numbers)


async def _watch(client: AsyncClient, number: int) -> None:
    """One job's progress and previews, to all watchers."""
    job = client.start(job_of("masked_gram", STEPS, seed=number, preview_interval=1), wait_when_busy=60)
    await anext(job)
    await asyncio.gather(job.result(), *(client.watch(job.job_id).result() for _ in range(WATCHERS - 1)))


async def _submit(client: AsyncClient, number: int) -> None:
    await client.start(job_of("blended", 1, seed=number)).result()


async def _upload(client: AsyncClient, _: int) -> None:
    await client.upload(os.urandom(UPLOAD_BYTES))


async def _fetch(client: AsyncClient, _: int) -> None:
    """The largest picture that there is, and the list of jobs on the way."""
    jobs = [job async for job in client.list_jobs(["succeeded"])]
    await client.result(max(jobs, key=lambda job: job.result_bytes).job_id)


_KINDS: Mapping[str, Turn] = {"watch": _watch, "submit": _submit, "upload": _upload, "fetch": _fetch}
KINDS = tuple(_KINDS)
