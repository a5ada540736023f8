"""The RPC Evaluate on a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import Failure, failure, long_request, read_until, run_job, tiny_request
from server_process import LONG, ServerProcess, eventually

UNKNOWN_FIELD = b"\xf8\x3f\x01"
"""On the wire: field 1023, a varint, 1."""


def evaluation(result: bytes = b"") -> pb.EvaluateRequest:
    """The tiny job's pictures, and a result: the content image itself unless told otherwise."""
    made = tiny_request()
    return pb.EvaluateRequest(
        content=made.content,
        label_map=made.label_map,
        segments=made.segments,
        result=pb.Image(data=result or pictures.content()),
    )


def refused(stub: StyleTransferServiceStub, request: pb.EvaluateRequest, timeout: float = LONG) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Evaluate(request, timeout=timeout)
    return failure(raised.value)


def test_a_result_is_judged(stub: StyleTransferServiceStub) -> None:
    found = stub.Evaluate(evaluation(run_job(stub, tiny_request()).image), timeout=LONG)
    assert (found.width, found.height) == pictures.CONTENT_SIZE
    assert [margin.segment for margin in found.margins] == [0, 1, 2]
    assert all(margin.margin > 0 and margin.HasField("nearest") for margin in found.margins)
    assert found.HasField("style_margin")
    assert found.seam.value >= 1
    assert found.content_seam.value > 1
    assert [point.offset for point in found.seam.profile] == list(range(16))
    assert found.transition > 0
    assert found.palette > 0
    assert [(border.first, border.second) for border in found.borders] == [(0, 1), (0, 2), (1, 2)]
    assert all(border.curve and border.length > 0 for border in found.borders)
    assert found.content > 0
    assert found.structure < 1


def test_the_content_image_is_itself(stub: StyleTransferServiceStub) -> None:
    found = stub.Evaluate(evaluation(), timeout=LONG)
    assert found.content == 0
    assert found.structure == pytest.approx(1, abs=1e-4)
    assert found.seam == found.content_seam


def test_figures_without_meaning_are_absent(stub: StyleTransferServiceStub) -> None:
    request = evaluation()
    request.label_map.data = pictures.flat(0, mode="L")
    del request.segments[1:]
    found = stub.Evaluate(request, timeout=LONG)
    absent = ("style_margin", "seam", "content_seam", "transition", "palette")
    assert not any(found.HasField(name) for name in absent)  # type: ignore[arg-type]  # names of this very message
    assert not found.margins[0].HasField("margin")
    assert not found.borders


def test_what_was_mended_is_said(stub: StyleTransferServiceStub) -> None:
    request = evaluation()
    request.label_map.data = pictures.label_map((97, 64))
    assert [warning.code for warning in stub.Evaluate(request, timeout=LONG).warnings] == ["label_map_resized"]


def _edit(name: str, value: bytes) -> Callable[[pb.EvaluateRequest], object]:
    return lambda request: setattr(getattr(request, name), "data", value)


CASES: dict[str, tuple[Callable[[Any], object], str]] = {
    "no content": (lambda r: r.ClearField("content"), "content.data"),
    "no result": (lambda r: r.ClearField("result"), "result.data"),
    "no label map": (lambda r: r.ClearField("label_map"), "label_map.data"),
    "content is no picture": (_edit("content", b"text"), "content.data"),
    "result is no picture": (_edit("result", b"text"), "result.data"),
    "result of other proportions": (_edit("result", pictures.content((96, 96))), "result.data"),
    "result too small": (_edit("result", pictures.content((45, 30))), "result.data"),
    "result too large": (_edit("result", pictures.bomb(20_000)), "result.data"),
    "label map of another size": (_edit("label_map", pictures.label_map((60, 40))), "label_map.data"),
    "style is no picture": (lambda r: setattr(r.segments[1].style, "data", b"text"), "segments[1].style.data"),
    "style and keep": (lambda r: setattr(r.segments[1], "keep", False), "segments[1].style"),
    "no labels": (lambda r: r.segments[1].ClearField("labels"), "segments[1].labels"),
    "a label without a style": (lambda r: r.segments.pop(), "label_map.data"),
    "no segments": (lambda r: r.ClearField("segments"), "segments"),
    "all kept": (lambda r: [setattr(segment, "keep", True) for segment in r.segments], "segments"),
    "unknown encoder": (lambda r: setattr(r, "encoder", "other"), "encoder"),
    "unknown field": (lambda r: r.MergeFromString(UNKNOWN_FIELD), "request"),
    "unknown field within": (lambda r: r.result.MergeFromString(UNKNOWN_FIELD), "result"),
}


@pytest.mark.parametrize(("edit", "field"), CASES.values(), ids=CASES)
def test_bad_input_is_named(
    stub: StyleTransferServiceStub, edit: Callable[[pb.EvaluateRequest], object], field: str
) -> None:
    request = evaluation()
    edit(request)
    found = refused(stub, request)
    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_an_encoder_without_weights(stub: StyleTransferServiceStub) -> None:
    request = evaluation()
    request.encoder = "torchvision"
    assert refused(stub, request).code is grpc.StatusCode.FAILED_PRECONDITION


def test_it_waits_its_turn_and_keeps_its_deadline(stub: StyleTransferServiceStub, server: ServerProcess) -> None:
    """Behind a long job it waits; given up, it leaves the queue."""
    running = stub.Stylize(long_request())
    try:
        read_until(running, "progress")
        assert refused(stub, evaluation(), timeout=1).code is grpc.StatusCode.DEADLINE_EXCEEDED
        call = stub.Evaluate.future(evaluation())
        eventually(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 1, "the job to be queued")
        call.cancel()
        eventually(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 0, "the job to be gone")
    finally:
        running.cancel()
    assert stub.Evaluate(evaluation(), timeout=LONG).content == 0
    assert "accepted: evaluation, 96x64" in server.log


def test_a_full_queue_refuses_it(narrow: StyleTransferServiceStub) -> None:
    running = narrow.Stylize(long_request())
    try:
        read_until(running, "stage")
        waiting = [narrow.Evaluate.future(evaluation()) for _ in range(2)]
        eventually(lambda: narrow.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 2, "the queue to be full")
        assert refused(narrow, evaluation()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        running.cancel()
    assert all(call.result(LONG).content == 0 for call in waiting)


def test_many_at_once(stub: StyleTransferServiceStub) -> None:
    found: list[pb.EvaluateResponse] = []
    threads = [
        threading.Thread(target=lambda: found.append(stub.Evaluate(evaluation(), timeout=LONG))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(response == found[0] for response in found)
