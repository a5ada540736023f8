"""Uploads over the wire, to a real server, and requests that refer to them."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import server_pictures as pictures
from google.rpc import error_details_pb2
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import Failure, assert_serves, failure, refusal, run_job, tiny_request
from server_process import LONG, ServerProcess, eventually

Start = Callable[..., ServerProcess]


def messages(data: bytes, upload_id: str, offset: int = 0, chunk: int = 1000) -> Iterator[pb.UploadRequest]:
    """All chunks of a picture from an offset on."""
    header = pb.UploadRequest(upload_id=upload_id, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    for begin in range(offset, len(data), chunk):
        message = pb.UploadRequest(offset=begin, data=data[begin : begin + chunk])
        message.MergeFrom(header)
        header = pb.UploadRequest()
        yield message


def fresh() -> bytes:
    """No picture, but bytes that no other test has uploaded: the server would not wait for them."""
    return os.urandom(5000)


def send(stub: StyleTransferServiceStub, data: bytes) -> str:
    """Uploads a picture and returns its id."""
    upload_id = uuid.uuid4().hex
    response = stub.Upload(messages(data, upload_id), timeout=LONG)
    assert response == pb.UploadResponse(upload_id=upload_id, received_bytes=len(data), complete=True)
    return upload_id


def upload_refusal(stub: StyleTransferServiceStub, sent: Iterator[pb.UploadRequest]) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Upload(sent, timeout=LONG)
    return failure(raised.value)


def received(stub: StyleTransferServiceStub, upload_id: str) -> pb.GetUploadResponse:
    return stub.GetUpload(pb.GetUploadRequest(upload_id=upload_id), timeout=LONG)


def edited(first: dict[str, Any]) -> Iterator[pb.UploadRequest]:
    """A good upload of one message, but for those fields of it."""
    for message in messages(fresh(), uuid.uuid4().hex, chunk=5000):
        for name, value in first.items():
            setattr(message, name, value)
        yield message


def test_cut_and_taken_up_again(stub: StyleTransferServiceStub) -> None:
    data, upload_id = fresh(), uuid.uuid4().hex
    sent = messages(data, upload_id)

    def breaks_off() -> Iterator[pb.UploadRequest]:
        yield next(sent)
        yield next(sent)
        eventually(lambda: received(stub, upload_id).received_bytes == 2000, "two chunks to arrive")
        call.cancel()

    call = stub.Upload.future(breaks_off(), timeout=LONG)
    with pytest.raises(grpc.FutureCancelledError):
        call.result()
    asked = received(stub, upload_id)
    assert (asked.received_bytes, asked.size_bytes, asked.complete) == (2000, len(data), False)
    assert stub.Upload(messages(data, upload_id, offset=2000), timeout=LONG).complete
    assert received(stub, upload_id).complete


def test_in_two_calls(stub: StyleTransferServiceStub) -> None:
    data, upload_id = fresh(), uuid.uuid4().hex
    first, *_ = messages(data, upload_id, chunk=1234)
    response = stub.Upload(iter([first]), timeout=LONG)
    assert (response.received_bytes, response.complete) == (1234, False)
    assert stub.Upload(messages(data, upload_id, offset=1234), timeout=LONG).complete


def test_the_same_file_again_is_complete_at_once(stub: StyleTransferServiceStub) -> None:
    data = pictures.content()
    send(stub, data)
    first, *_ = messages(data, uuid.uuid4().hex, chunk=10)
    assert stub.Upload(iter([first]), timeout=LONG).complete
    # The rest of it that is on its way does no harm.
    assert stub.Upload(messages(data, uuid.uuid4().hex, chunk=10), timeout=LONG).complete


@pytest.mark.parametrize(
    ("first", "field"),
    [
        ({"upload_id": ""}, "upload_id"),
        ({"upload_id": "../../etc"}, "upload_id"),
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": 2**40}, "size_bytes"),
        ({"size_bytes": 3}, "data"),
        ({"sha256": "123"}, "sha256"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"offset": 1}, "offset"),
    ],
)
def test_refused_naming_the_field(stub: StyleTransferServiceStub, first: dict[str, Any], field: str) -> None:
    found = upload_refusal(stub, edited(first))
    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_messages_of_no_upload(stub: StyleTransferServiceStub) -> None:
    assert upload_refusal(stub, iter([])).field == "upload_id"
    unknown = pb.UploadRequest.FromString(b"\xf8\x3f\x01")
    assert upload_refusal(stub, iter([unknown])).field == "request"
    one, *_ = messages(fresh(), uuid.uuid4().hex)
    two = pb.UploadRequest(upload_id="another", offset=1000, data=b"x")
    assert upload_refusal(stub, iter([one, two])).field == "upload_id"


def test_unknown_upload(stub: StyleTransferServiceStub) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        received(stub, "nothing")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_two_calls_at_once(stub: StyleTransferServiceStub) -> None:
    data, upload_id = fresh(), uuid.uuid4().hex
    sent = messages(data, upload_id)

    def pauses() -> Iterator[pb.UploadRequest]:
        yield next(sent)
        eventually(lambda: received(stub, upload_id).received_bytes == 1000, "a chunk to arrive")
        failures.append(upload_refusal(stub, messages(data, upload_id, offset=1000)))
        yield from sent

    failures: list[Failure] = []
    assert stub.Upload(pauses(), timeout=LONG).complete
    assert [failure.code for failure in failures] == [grpc.StatusCode.ABORTED]


def test_limits_and_expiry(start_server: Start) -> None:
    server = start_server(max_upload_bytes=2**20, max_client_uploads=1, upload_seconds=2)
    with server.stub() as stub:
        server.wait_for_log("listening on")
        assert upload_refusal(stub, edited({"size_bytes": 2**20 + 1})).field == "size_bytes"
        stub.Upload(edited({"size_bytes": 6000, "upload_id": "first"}), timeout=LONG)
        full = upload_refusal(stub, edited({}))
        assert full.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        (retry,) = full.details
        assert isinstance(retry, error_details_pb2.RetryInfo)

        def dropped() -> bool:
            try:
                received(stub, "first")
            except grpc.RpcError as error:
                return bool(error.code() is grpc.StatusCode.NOT_FOUND)  # type: ignore[attr-defined]
            return False

        eventually(dropped, "the upload to be dropped")
        assert send(stub, pictures.content())


def test_survives_the_server(start_server: Start, tmp_path: Any) -> None:
    data, upload_id = fresh(), uuid.uuid4().hex
    first, *_ = messages(data, upload_id)
    before = start_server(data_dir=tmp_path)
    with before.stub() as stub:
        before.wait_for_log("listening on")
        stub.Upload(iter([first]), timeout=LONG)
    before.process.kill()
    after = start_server(data_dir=tmp_path)
    with after.stub() as stub:
        after.wait_for_log("listening on")
        assert received(stub, upload_id).received_bytes == 1000
        assert stub.Upload(messages(data, upload_id, offset=1000), timeout=LONG).complete


def all_by_upload(stub: StyleTransferServiceStub, message: Any) -> None:
    """Puts an upload in the place of every picture's data."""
    for image in images_in(message):
        image.CopyFrom(pb.Image(upload_id=send(stub, image.data)))


def images_in(message: Any) -> Iterator[pb.Image]:
    if isinstance(message, pb.Image):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from images_in(item)


def masked() -> pb.StylizeRequest:
    """Soft masks in the place of the label map."""
    request = tiny_request()
    labels = pictures.opened(pictures.label_map())
    for label in range(3):
        mask = labels.point([255 * (value == label) for value in range(256)], "L")
        request.soft_masks.masks.add(label=label, image=pb.Image(data=pictures.encoded(mask)))
    return request


def scribbled() -> pb.StylizeRequest:
    """A stripe of each label on an unmarked ground."""
    request = tiny_request()
    scribbles = pictures.opened(pictures.flat(255, mode="L"))
    for label in range(3):
        scribbles.paste(label, (8 + 30 * label, 8, 24 + 30 * label, 56))
    request.scribbles.image.data = pictures.encoded(scribbles)
    return request


def started() -> pb.StylizeRequest:
    """With a start image."""
    request = tiny_request()
    request.optimization.start = pb.START_IMAGE
    request.optimization.start_image.data = pictures.style("ink")
    return request


@pytest.mark.parametrize("make", [tiny_request, masked, scribbled, started])
def test_a_job_with_uploads_makes_the_same_picture(
    stub: StyleTransferServiceStub, make: Callable[[], pb.StylizeRequest]
) -> None:
    by_bytes = make()
    by_upload = make()
    all_by_upload(stub, by_upload)
    assert not any(image.data for image in images_in(by_upload))
    assert run_job(stub, by_upload).image == run_job(stub, by_bytes).image


def test_other_calls_take_uploads(stub: StyleTransferServiceStub) -> None:
    request = tiny_request()
    job = pb.EstimateRequest(job=request)
    width = stub.Estimate(job, timeout=LONG).width
    all_by_upload(stub, job)
    assert stub.Estimate(job, timeout=LONG).width == width

    segment = pb.SegmentRequest(content=request.content, label_map=request.label_map)
    found = stub.Segment(segment, timeout=LONG)
    all_by_upload(stub, segment)
    assert stub.Segment(segment, timeout=LONG) == found

    evaluation = pb.EvaluateRequest(
        content=request.content, label_map=request.label_map, segments=request.segments, result=request.content
    )
    judged = stub.Evaluate(evaluation, timeout=LONG)
    all_by_upload(stub, evaluation)
    assert stub.Evaluate(evaluation, timeout=LONG) == judged


def test_a_picture_that_cannot_be_had(stub: StyleTransferServiceStub) -> None:
    paths = {
        "content": lambda request: request.content,
        "label_map": lambda request: request.label_map,
        "segments[1].style": lambda request: request.segments[1].style,
        "optimization.start_image": lambda request: request.optimization.start_image,
    }
    for path, image_of in paths.items():
        request = started()
        image_of(request).CopyFrom(pb.Image(upload_id="nothing"))
        found = refusal(stub, request)
        assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"{path}.upload_id")
        image_of(request).data = pictures.content()
        found = refusal(stub, request)
        assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"{path}.upload_id")
        assert "data as well" in found.message
    with pytest.raises(grpc.RpcError) as raised:
        stub.Estimate(pb.EstimateRequest(job=request), timeout=LONG)
    assert failure(raised.value).field == "job.optimization.start_image.upload_id"


def test_an_upload_that_is_not_complete(stub: StyleTransferServiceStub) -> None:
    upload_id = uuid.uuid4().hex
    first, *_ = messages(fresh(), upload_id)
    stub.Upload(iter([first]), timeout=LONG)
    request = tiny_request()
    request.segments[2].style.CopyFrom(pb.Image(upload_id=upload_id))
    found = refusal(stub, request)
    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, "segments[2].style.upload_id")
    assert "1000 of" in found.message


def test_uploads_keep_to_the_limits_of_pictures(narrow: StyleTransferServiceStub) -> None:
    """200 x 200 pixels there, known before any is decoded."""
    for data in (pictures.bomb(30_000), pictures.content((240, 180)), b"no picture"):
        request = tiny_request()
        request.content.CopyFrom(pb.Image(upload_id=send(narrow, data)))
        found = refusal(narrow, request)
        assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, "content.data")
    assert_serves(narrow)


def test_a_request_can_refer_to_only_so_much(start_server: Start) -> None:
    """Though its message is small; and the same picture counts as often as it is referred to."""
    server = start_server(max_request_bytes=2**20)
    with server.stub() as stub:
        server.wait_for_log("listening on")
        upload_id = send(stub, bytes(300_000))
        request = tiny_request()
        for segment in request.segments:
            segment.style.CopyFrom(pb.Image(upload_id=upload_id))
        request.content.CopyFrom(pb.Image(upload_id=upload_id))
        found = refusal(stub, request)
        assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, "segments[2].style.upload_id")
        assert "more than 1048576 bytes" in found.message
