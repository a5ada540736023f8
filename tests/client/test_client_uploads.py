"""Both clients send large pictures ahead, and take broken uploads up again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from fake_server import FakeServer, Script, good_job
from intarsia import AsyncClient, Client, IntarsiaError
from intarsia.uploads import CHUNK_BYTES, MOST_INLINE, Sending, Timer
from intarsia.v1 import style_transfer_pb2 as pb

CONTENT = random.Random(1).randbytes(5 * 2**20 + 1)
STYLE = random.Random(2).randbytes(3 * 2**20)
SMALL = random.Random(3).randbytes(2**20 + 2**19)
JOB: dict[str, Any] = {"labels": b"labels", "timeout": 60}


def call(fake: FakeServer, name: str, *args: Any, **options: Any) -> Any:
    with Client(fake.address) as client:
        answer = getattr(client, name)(*args, **options)
        return answer.result() if name == "stylize" else answer


def call_async(fake: FakeServer, name: str, *args: Any, **options: Any) -> Any:
    async def go() -> Any:
        async with AsyncClient(fake.address) as client:
            answer = await getattr(client, name)(*args, **options)
            return await answer.result() if name == "stylize" else answer

    return asyncio.run(go())


both = pytest.mark.parametrize("call", [call, call_async])
Call = Callable[..., Any]


@both
def test_small_pictures_travel_in_the_request(server: FakeServer, call: Call) -> None:
    call(server, "stylize", SMALL, styles={0: SMALL}, **JOB)
    assert not server.uploads
    assert server.requests[0].content.data == SMALL


@both
def test_the_largest_are_uploaded_until_the_rest_fits(server: FakeServer, call: Call) -> None:
    result = call(server, "stylize", CONTENT, styles={0: STYLE, 1: SMALL, 2: "keep"}, **JOB)
    assert result.width == 60
    (request,) = server.requests
    assert server.uploads[request.content.upload_id] == CONTENT
    assert server.uploads[request.segments[0].style.upload_id] == STYLE
    assert (request.segments[1].style.data, request.label_map.data) == (SMALL, b"labels")
    assert len(server.uploads) == 2
    assert request.ByteSize() < MOST_INLINE
    assert max(message.ByteSize() for message in server.upload_messages) <= 2**20


@both
def test_a_picture_that_occurs_twice_is_uploaded_once(server: FakeServer, call: Call) -> None:
    call(server, "stylize", b"content", styles={0: CONTENT, 1: CONTENT}, **JOB)
    (request,) = server.requests
    first, second = (segment.style.upload_id for segment in request.segments)
    assert first == second
    assert list(server.uploads) == [first]


@both
def test_no_more_than_the_server_takes_in_a_message(server: FakeServer, call: Call) -> None:
    server.max_message_bytes = 2**20
    call(server, "stylize", SMALL, styles={0: b"style"}, **JOB)
    assert server.uploads[server.requests[0].content.upload_id] == SMALL


@both
def test_every_call_uploads(server: FakeServer, call: Call) -> None:
    options = {"labels": b"labels", "styles": {0: b"style"}}
    call(server, "estimate", CONTENT, **options)
    call(server, "evaluate", CONTENT, STYLE, **options)
    call(server, "segment", CONTENT, labels=b"labels")
    sent = server.estimates[0].job.content, server.evaluations[0].content, server.segment_requests[0].content
    assert all(server.uploads[image.upload_id] == CONTENT for image in sent)
    assert not server.evaluations[0].result.upload_id


@both
def test_what_was_uploaded_serves_as_a_picture(server: FakeServer, call: Call) -> None:
    image = call(server, "upload", b"a small one")
    call(server, "stylize", b"content", styles={0: image, 1: image}, **JOB)
    assert [segment.style for segment in server.requests[0].segments] == [image, image]
    assert server.uploads == {image.upload_id: b"a small one"}


@both
def test_taken_up_where_it_broke_off(server: FakeServer, call: Call) -> None:
    server.upload_failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED]
    image = call(server, "upload", CONTENT)
    assert server.uploads[image.upload_id] == CONTENT
    assert [message.offset for message in server.upload_messages] == list(range(0, len(CONTENT), CHUNK_BYTES))
    assert [bool(message.sha256) for message in server.upload_messages] == [True, False, True, False, True, False]


@both
def test_goes_on_with_what_an_earlier_program_began(server: FakeServer, call: Call) -> None:
    server.uploads["mine"] = bytearray(CONTENT[:1_234_567])
    assert call(server, "upload", CONTENT, upload_id="mine") == pb.Image(upload_id="mine")
    assert server.uploads["mine"] == CONTENT


@both
def test_a_refusal_is_not_tried_again(server: FakeServer, call: Call) -> None:
    server.upload_failures = [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    with pytest.raises(IntarsiaError) as caught:
        call(server, "stylize", CONTENT, styles={0: b"style"}, **JOB)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(server.upload_failures) == 1
    assert not server.requests


def test_gives_up_at_the_deadline(serve: Callable[[Script], FakeServer]) -> None:
    server = serve(good_job)
    server.upload_failures = [grpc.StatusCode.UNAVAILABLE] * 100
    with Client(server.address) as client, pytest.raises(IntarsiaError) as caught:
        client.upload(bytes(40 * CHUNK_BYTES), timeout=0.5)
    assert caught.value.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_what_the_server_has_lost_is_sent_anew() -> None:
    sending, timer = Sending(CONTENT, "mine"), Timer(None)
    assert sending.wait_after(IntarsiaError(grpc.StatusCode.UNAVAILABLE, ""), timer) > 0
    assert sending.broken
    sending.resume(pb.GetUploadResponse(received_bytes=len(CONTENT)))
    (last,) = sending.messages()
    assert (last.offset, last.data, last.upload_id) == (len(CONTENT), b"", "mine")
    sending.wait_after(IntarsiaError(grpc.StatusCode.NOT_FOUND, ""), timer)
    assert not sending.broken
    assert b"".join(message.data for message in sending.messages()) == CONTENT


def test_enough_failures_are_enough() -> None:
    sending, timer, away = Sending(CONTENT), Timer(None), IntarsiaError(grpc.StatusCode.UNAVAILABLE, "away")
    for _ in range(7):
        assert 0 < sending.wait_after(away, timer) <= 5
    with pytest.raises(IntarsiaError, match="away"):
        sending.wait_after(away, timer)


def test_an_end_whose_status_was_lost_is_asked_about() -> None:
    sending = Sending(CONTENT)
    assert sending.wait_after(IntarsiaError(grpc.StatusCode.INTERNAL, "Internal error from Core"), Timer(None)) > 0
    assert sending.broken
    with pytest.raises(IntarsiaError, match="defect"):
        sending.wait_after(IntarsiaError(grpc.StatusCode.INTERNAL, "a defect"), Timer(None))
