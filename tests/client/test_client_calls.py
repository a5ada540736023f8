"""Both clients against a scripted server: events, results, errors, cancellation, deadlines."""

from __future__ import annotations

import asyncio
import doctest
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import intarsia.aio
import intarsia.client
import intarsia.request
import pytest
from fake_server import (
    FakeServer,
    Script,
    abort,
    bad_request,
    completed,
    endless_job,
    good_job,
    picture,
    result_chunks,
    result_header,
    retry_info,
)
from google.protobuf.message import Message
from intarsia import AsyncClient, Client, IntarsiaError, RequestError, Result
from intarsia.v1 import style_transfer_pb2 as pb

Serve = Callable[[Script], FakeServer]
JOB = {"labels": b"labels", "styles": {0: b"style", 1: "keep"}}


def run(fake: FakeServer, timeout: float | None = 5) -> Result:
    with Client(fake.address) as client:
        return client.stylize(b"content", timeout=timeout, **JOB).result()  # type: ignore[arg-type]


def run_async(fake: FakeServer, timeout: float | None = 5) -> Result:
    async def go() -> Result:
        async with AsyncClient(fake.address) as client:
            return await (await client.stylize(b"content", timeout=timeout, **JOB)).result()  # type: ignore[arg-type]

    return asyncio.run(go())


both = pytest.mark.parametrize("run", [run, run_async])
Run = Callable[..., Result]


@both
def test_result(server: FakeServer, run: Run, tmp_path: Path) -> None:
    result = run(server)
    assert result.image == picture()
    assert (result.format, result.width, result.height, result.job_id) == ("png", 60, 40, "job-1")
    assert result.request_id == server.requests[0].request_id != ""
    assert (result.queued_time, result.run_time) == (timedelta(seconds=0.5), timedelta(seconds=3))
    assert [(stage.stage, stage.steps) for stage in result.stages] == [("masked gram", 2)]
    assert result.to_pil().size == (60, 40)
    result.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == result.image
    assert list(tmp_path.iterdir()) == [tmp_path / "out.png"]


def test_events_arrive_before_the_job_has_ended(serve: Serve) -> None:
    with Client(serve(endless_job).address) as client, client.stylize(b"content", **JOB) as job:  # type: ignore[arg-type]
        assert next(job).accepted.job_id == "job-1"
        assert next(job).stage.total_steps == 1000


def chunked(spoil: Callable[[list[Message]], list[Message]] = list) -> Script:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        yield pb.AcceptedEvent(job_id="job-1", request_id=request.request_id)
        yield from spoil([result_header(picture(), request, chunks=3), *result_chunks(picture(), 3), completed()])

    return script


def moved(chunk: Message, **place: int) -> Message:
    for field, value in place.items():
        setattr(chunk, field, value)
    return chunk


@both
def test_chunks_are_joined(serve: Serve, run: Run) -> None:
    assert run(serve(chunked())).image == picture()


@both
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda events: [events[0], events[2], events[1], *events[3:]], "chunk 1 .* out of order"),
        (lambda events: [*events[:3], events[4]], "2 of 3 chunks"),
        (lambda events: [*events[:2], moved(events[2], index=2), *events[3:]], "chunk 2 .* out of order"),
        (lambda events: [*events[:2], moved(events[2], offset=1), *events[3:]], "chunk 1 .* out of order"),
        (lambda events: events[1:], "chunk 0 .* out of order"),
        (lambda events: events[:-1], "before the job was completed"),
        (lambda _: [], "before the job was completed"),
        (lambda events: [pb.ResultEvent(image=pb.Image(data=b"x"), size_bytes=1), events[-1]], "SHA-256"),
        (lambda events: [pb.ResultEvent(image=pb.Image(data=b"x")), events[-1]], "size"),
    ],
)
def test_a_result_that_did_not_arrive_whole(
    serve: Serve, run: Run, spoil: Callable[[list[Message]], list[Message]], message: str
) -> None:
    with pytest.raises(IntarsiaError, match=message) as caught:
        run(serve(chunked(spoil)))
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


@both
def test_bad_request_names_the_fields(serve: Serve, run: Run) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        details = bad_request(("segments[1].style.data", "not an image"), ("seed", "odd"))
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "bad request", details)
        yield completed()

    with pytest.raises(IntarsiaError) as caught:
        run(serve(script))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == "bad request"
    assert caught.value.violations == (("segments[1].style.data", "not an image"), ("seed", "odd"))
    assert caught.value.retry_after_seconds is None
    assert str(caught.value) == "INVALID_ARGUMENT: bad request [segments[1].style.data: not an image; seed: odd]"


@both
def test_full_queue_says_when_to_come_back(serve: Serve, run: Run) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", retry_info(12))
        yield completed()

    with pytest.raises(IntarsiaError) as caught:
        run(serve(script))
    assert (caught.value.code, caught.value.retry_after_seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 12)


@both
def test_details_that_cannot_be_read_do_not_hide_the_error(serve: Serve, run: Run) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.INTERNAL, "a defect")
        yield completed()

    with pytest.raises(IntarsiaError, match="INTERNAL: a defect"):
        run(serve(script))


@both
def test_deadline(serve: Serve, run: Run) -> None:
    fake = serve(endless_job)
    with pytest.raises(IntarsiaError) as caught:
        run(fake, timeout=0.3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert fake.ended.wait(5)
    remaining = fake.deadlines[0]
    assert remaining is not None
    assert remaining < 1


def test_no_deadline_by_default(server: FakeServer) -> None:
    run(server, timeout=None)
    remaining = server.deadlines[0]
    assert remaining is None or remaining > 1e6


def test_cancel(serve: Serve) -> None:
    fake = serve(endless_job)
    with Client(fake.address) as client:
        job = client.stylize(b"content", **JOB)  # type: ignore[arg-type]
        next(job)
        job.cancel()
        with pytest.raises(IntarsiaError) as caught:
            job.result()
    assert caught.value.code is grpc.StatusCode.CANCELLED
    assert fake.ended.wait(5)


def test_leaving_early_cancels(serve: Serve) -> None:
    fake = serve(endless_job)
    with Client(fake.address) as client:
        with client.stylize(b"content", **JOB) as job:  # type: ignore[arg-type]
            for _ in job:
                break
        assert fake.ended.wait(5)


def test_async_cancel_and_leaving_early(serve: Serve) -> None:
    fake = serve(endless_job)

    async def cancelled() -> IntarsiaError:
        async with AsyncClient(fake.address) as client:
            job = await client.stylize(b"content", **JOB)  # type: ignore[arg-type]
            await anext(job)
            job.cancel()
            with pytest.raises(IntarsiaError) as caught:
                await job.result()
            with pytest.raises(IntarsiaError) as again:  # asked twice, the same answer
                await job.result()
            assert again.value is caught.value
            return caught.value

    assert asyncio.run(cancelled()).code is grpc.StatusCode.CANCELLED
    assert fake.ended.wait(5)
    fake.ended.clear()

    async def left() -> None:
        async with AsyncClient(fake.address) as client:
            async with await client.stylize(b"content", **JOB) as job:  # type: ignore[arg-type]
                async for _ in job:
                    break
            assert await asyncio.to_thread(fake.ended.wait, 5)

    asyncio.run(left())


def test_a_cancelled_task_stays_cancelled(serve: Serve) -> None:
    fake = serve(endless_job)

    async def go() -> None:
        async with AsyncClient(fake.address) as client:
            job = await client.stylize(b"content", **JOB)  # type: ignore[arg-type]
            await anext(job)
            task = asyncio.create_task(job.result())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(fake.ended.wait, 5)

    asyncio.run(go())


def test_server_info(server: FakeServer) -> None:
    with Client(server.address) as client:
        client.wait_ready(5)
        assert client.server_info().versions["intarsia"] == "1.2.3"

    async def go() -> str:
        async with AsyncClient(server.address) as other:
            await other.wait_ready(5)
            return (await other.server_info()).default_encoder

    assert asyncio.run(go()) == "embedded"


def test_nobody_there(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'x'}"
    with Client(address) as client:
        with pytest.raises(IntarsiaError, match=r"no server could be reached at unix:.* within 0\.1 s"):
            client.wait_ready(0.1)
        with pytest.raises(IntarsiaError) as caught:
            client.server_info()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE

    async def go() -> None:
        async with AsyncClient(address) as other:
            with pytest.raises(IntarsiaError, match="no server could be reached"):
                await other.wait_ready(0.1)
            with pytest.raises(IntarsiaError, match="UNAVAILABLE"):
                await other.server_info()

    asyncio.run(go())


@pytest.mark.parametrize("address", ["localhost", "http://localhost:50051", ":50051", "host:port", ""])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(RequestError, match="neither HOST:PORT nor unix:PATH"):
        Client(address)


@pytest.mark.parametrize("module", [intarsia.client, intarsia.aio, intarsia.request])
def test_examples_in_docstrings(module: object, serve: Serve, pictures: Path) -> None:
    globs = {"address": serve(good_job).address}
    tests = doctest.DocTestFinder().find(module, extraglobs=globs)
    examples = [test for test in tests if test.examples]
    assert examples
    for test in examples:
        assert doctest.DocTestRunner().run(test).failed == 0
