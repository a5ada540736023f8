"""Both clients' calls about jobs: how they stand, lists, cancels, downloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest
from fake_server import picture
from intarsia import AsyncClient, Client, IntarsiaError, RequestError, Result, state_name
from intarsia.v1 import style_transfer_pb2 as pb
from lasting_server import EVENTS, LastingServer


def fetch(fake: LastingServer, job_id: str, **options: float) -> Result:
    with Client(fake.address, **options) as client:
        return client.result(job_id)


def fetch_async(fake: LastingServer, job_id: str, **options: float) -> Result:
    async def go() -> Result:
        async with AsyncClient(fake.address, **options) as client:
            return await client.result(job_id)

    return asyncio.run(go())


both = pytest.mark.parametrize("fetch", [fetch, fetch_async])
Fetch = Callable[..., Result]


@both
@pytest.mark.parametrize("breaks", [[], [0], [1], [3], [1, 1, 1], [2, 0, 1]])
def test_result_goes_on_where_it_broke_off(lasting: LastingServer, fetch: Fetch, breaks: list[int]) -> None:
    job = lasting.add(request_id="r")
    lasting.result_breaks.extend(breaks)
    result = fetch(lasting, job.job_id)
    assert result.image == picture()
    assert (result.job_id, result.request_id, result.format, result.width) == ("job-1", "r", "png", 60)
    assert (result.queued_time.total_seconds(), result.run_time.total_seconds()) == (2, 3)
    step = len(picture()) // 4
    offsets = [sum(breaks[:count]) * step for count in range(len(breaks) + 1)]
    assert [download.offset for download in lasting.downloads] == offsets


@both
def test_result_that_is_another(lasting: LastingServer, fetch: Fetch) -> None:
    job = lasting.add()
    lasting.announced_sha256 = "0" * 64
    with pytest.raises(IntarsiaError, match="SHA-256") as caught:
        fetch(lasting, job.job_id)
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


@both
def test_result_of_a_job_that_failed(lasting: LastingServer, fetch: Fetch) -> None:
    job = lasting.add()
    lasting.fail(job, grpc.StatusCode.UNAVAILABLE, "the worker process died")
    with pytest.raises(IntarsiaError, match="UNAVAILABLE: the worker process died"):
        fetch(lasting, job.job_id)
    assert not lasting.downloads


@both
def test_result_of_nobody(lasting: LastingServer, fetch: Fetch) -> None:
    with pytest.raises(IntarsiaError, match="NOT_FOUND"):
        fetch(lasting, "job-7")


@both
def test_result_from_a_server_that_stays_away(lasting: LastingServer, fetch: Fetch) -> None:
    lasting.result_breaks.extend([0] * 100)
    with pytest.raises(IntarsiaError, match="UNAVAILABLE: Socket closed"):
        fetch(lasting, lasting.add().job_id, reattach_seconds=0.3)


def test_lists_and_single_jobs(lasting: LastingServer) -> None:
    for index in range(5):
        lasting.add(pb.JOB_STATE_FAILED if index % 2 else pb.JOB_STATE_RUNNING)
    newest_first = [f"job-{number}" for number in (5, 4, 3, 2, 1)]
    with Client(lasting.address) as client:
        assert [job.job_id for job in client.list_jobs(page_size=2)] == newest_first
        assert [page.page_token for page in lasting.pages] == ["", "2", "4"]
        assert [job.job_id for job in client.list_jobs(["failed"])] == ["job-4", "job-2"]
        with pytest.raises(RequestError, match=r"unknown state 'fialed'\. Did you mean 'failed'"):
            client.list_jobs(["fialed"])
        assert state_name(client.get_job("job-1")) == "running"
        assert state_name(client.cancel_job("job-1")) == "cancelled"
        with pytest.raises(IntarsiaError, match="NOT_FOUND"):
            client.cancel_job("job-9")


def test_lists_and_single_jobs_async(lasting: LastingServer) -> None:
    for _ in range(3):
        lasting.add(pb.JOB_STATE_RUNNING)

    async def go() -> None:
        async with AsyncClient(lasting.address) as client:
            found = [job.job_id async for job in client.list_jobs(["running"], page_size=1)]
            assert found == ["job-3", "job-2", "job-1"]
            assert state_name(await client.get_job("job-1")) == "running"
            assert state_name(await client.cancel_job("job-1")) == "cancelled"
            with pytest.raises(IntarsiaError, match="NOT_FOUND"):
                await client.get_job("job-9")

    asyncio.run(go())


@pytest.mark.parametrize("after", [0, 4, EVENTS])
def test_watch(lasting: LastingServer, after: int) -> None:
    job = lasting.add()
    lasting.breaks.append(1)
    with Client(lasting.address) as client:
        watched = client.watch(job.job_id, after)
        assert [event.sequence for event in watched] == list(range(after + 1, EVENTS + 1))
        assert watched.result().image == picture()
    assert not lasting.requests


def test_watch_without_a_name(lasting: LastingServer) -> None:
    """Not a new job with nothing in it."""
    with Client(lasting.address) as client, pytest.raises(RequestError, match="job_id is empty"):
        client.watch("")

    async def watch() -> None:
        async with AsyncClient(lasting.address) as client:
            client.watch("")

    with pytest.raises(RequestError, match="job_id is empty"):
        asyncio.run(watch())
    assert not lasting.requests


def test_watch_nobody(lasting: LastingServer) -> None:
    with Client(lasting.address) as client, pytest.raises(IntarsiaError, match="NOT_FOUND"):
        next(client.watch("job-1"))
