"""Requests that are refused for what their fields say; afterwards the server is as well as before."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import FEW_STEPS, assert_serves, failure_of, refusal, tiny_request
from server_process import LONG, ServerProcess

Edit = Callable[[pb.StylizeRequest], object]
UNKNOWN_FIELD = b"\xf8\x3f\x01"
"""On the wire: field 1023, a varint, 1."""


def _set(path: str, value: object) -> Edit:
    """Sets a field by its path in the spelling of errors; "masked_gram.steps" or "segments[1].style_scale"."""

    def edit(request: pb.StylizeRequest) -> None:
        *parents, name = path.split(".")
        message: object = request
        for step in parents:
            field, _, index = step.rstrip("]").partition("[")
            message = getattr(message, field)
            if index:
                message = message[int(index)]  # type: ignore[index]  # a repeated field
        setattr(message, name, value)

    return edit


def _number_cases() -> dict[str, tuple[Edit, str]]:
    """Every number with values outside its range."""
    wrong: dict[str, tuple[float, ...]] = {}
    not_a_weight = (math.nan, math.inf, -math.inf, -1.0, 1e30)
    for method, steps in FEW_STEPS.items():
        fields = getattr(pb.StylizeRequest(), method).DESCRIPTOR.fields_by_name
        wrong |= {f"{method}.{name}": (0, 1_000_000) for name in steps}
        wrong |= {f"{method}.{name}": not_a_weight for name in fields if name.endswith("_weight")}
        if "background" in fields:
            wrong[f"{method}.background"] = (3, 2**32 - 1)
    wrong["sequential_smooth.border_radius"] = (math.nan, math.inf, 0.0, -3.0, 257.0)
    for name in ("style_weight", "content_weight"):
        wrong[f"segments[1].{name}"] = not_a_weight
    wrong |= {
        "segments[2].style_scale": (math.nan, math.inf, -1.0, 0.0, 0.01, 5.0, 1e30),
        "optimization.learning_rate": (math.nan, math.inf, -0.1, 0.0, 1e30),
        "optimization.history": (0, 101, 2**32 - 1),
        "optimization.memory_bytes": (0, 2**28 - 1, 2**50 + 1),
        "output.size": (0, 1, 31, 20_000, 2**32 - 1),
        "output.quality": (0, 101),
        "preview_interval": (10_001, 2**32 - 1),
        "precision": (99, -1),
        "output.format": (99,),
        "optimization.optimizer": (99,),
        "optimization.start": (99,),
        "optimization.until": (99,),
    }
    return {f"{path}={value:g}": (_set(path, value), path) for path, values in wrong.items() for value in values}


def _keep_all(request: pb.StylizeRequest) -> None:
    for segment in request.segments:
        segment.keep = True


def _many_segments(request: pb.StylizeRequest) -> None:
    for label in range(3, 300):
        request.segments.add(labels=[label], keep=True)


def _many_segments_one_unknown(request: pb.StylizeRequest) -> None:
    """Refused for their number before each is looked at: a million of them would hold up every other call."""
    _many_segments(request)
    request.segments[0].MergeFromString(UNKNOWN_FIELD)


def _many_boxes_one_unknown(request: pb.StylizeRequest) -> None:
    for _ in range(257):
        request.boxes.boxes.add(label=1)
    request.boxes.boxes[0].MergeFromString(UNKNOWN_FIELD)


def _blended_as_published(request: pb.StylizeRequest) -> None:
    request.blended.steps = 3
    request.paper = True


def _background_is_kept(request: pb.StylizeRequest) -> None:
    request.CopyFrom(tiny_request("sequential", background=1))
    request.segments[1].keep = True


def _start_image_unasked(request: pb.StylizeRequest) -> None:
    request.optimization.start_image.data = pictures.style("ink")


FIELD_CASES: dict[str, tuple[Edit, str]] = {
    "no segmentation": (lambda r: r.ClearField("label_map"), "label_map"),
    "no segments": (lambda r: r.ClearField("segments"), "segments"),
    "300 segments": (_many_segments, "segments"),
    "300 segments, one of a newer API": (_many_segments_one_unknown, "segments"),
    "257 boxes, one of a newer API": (_many_boxes_one_unknown, "boxes.boxes"),
    "every segment kept": (_keep_all, "segments"),
    "no labels": (lambda r: r.segments[1].ClearField("labels"), "segments[1].labels"),
    "too many labels": (lambda r: r.segments[1].labels.extend(range(100, 4200)), "segments[1].labels"),
    "label claimed by two": (lambda r: r.segments[2].labels.append(1), "segments[2].labels"),
    "label claimed twice by one": (lambda r: r.segments[2].labels.append(2), "segments[2].labels"),
    "label without a style": (lambda r: r.segments.pop(2), "label_map.data"),
    "style without a label": (
        lambda r: r.segments.add(labels=[9], style=pb.Image(data=pictures.style("ink"))),
        "segments[3].labels",
    ),
    "label beyond 31 bits": (lambda r: r.segments[0].labels.append(2**32 - 1), "segments[0].labels"),
    "no look": (lambda r: r.segments[1].ClearField("style"), "segments[1].style"),
    "keep is false": (_set("segments[1].keep", False), "segments[1].style"),
    "background is kept": (_background_is_kept, "sequential.background"),
    "paper of what is not the publication's": (_blended_as_published, "paper"),
    "start image missing": (_set("optimization.start", pb.START_IMAGE), "optimization.start_image"),
    "start image unasked": (_start_image_unasked, "optimization.start_image"),
    "request id": (_set("request_id", "not-a-uuid"), "request_id"),
    "long request id": (_set("request_id", "7" * 100_000), "request_id"),
    "encoder": (_set("encoder", "nonsense"), "encoder"),
    "encoder with a path": (_set("encoder", "../../etc/passwd"), "encoder"),
    "encoder with a long name": (_set("encoder", "x" * 100_000), "encoder"),
    "encoder with a long name in emoji": (_set("encoder", "😀" * 2000), "encoder"),
    "encoder with a long name of escapes": (_set("encoder", "%" * 100_000), "encoder"),
    "unknown field": (lambda r: r.MergeFromString(UNKNOWN_FIELD), "request"),
    "unknown field in a method": (lambda r: r.masked_gram.MergeFromString(UNKNOWN_FIELD), "masked_gram"),
    "unknown field in a segment": (lambda r: r.segments[1].MergeFromString(UNKNOWN_FIELD), "segments[1]"),
    "unknown field in a style": (
        lambda r: r.segments[1].style.MergeFromString(UNKNOWN_FIELD),
        "segments[1].style",
    ),
    "many unknown fields": (
        lambda r: r.output.MergeFromString(b"".join(_varint(n << 3) + b"\1" for n in range(100, 9000))),
        "output",
    ),
}


def _varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(high) if high else bytes([low])


CASES = FIELD_CASES | _number_cases()


@pytest.mark.parametrize("name", CASES)
def test_refused_naming_the_field(stub: StyleTransferServiceStub, name: str) -> None:
    edit, field = CASES[name]
    request = tiny_request()
    edit(request)
    failure = refusal(stub, request)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, failure.message
    assert failure.field == field
    assert field in failure.message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_many_segments, "segments: has 300 entries, at most 256 are allowed"),
        (_set("optimization.history", 2**32 - 1), "optimization.history: is 4294967295, must be from 1 to 100"),
    ],
)
def test_numbers_are_named_in_full(stub: StyleTransferServiceStub, edit: Edit, message: str) -> None:
    request = tiny_request()
    edit(request)
    assert refusal(stub, request).message == message


def test_refusals_leave_the_server_well(stub: StyleTransferServiceStub) -> None:
    edits = [edit for edit, _ in CASES.values()]
    random.Random(0).shuffle(edits)
    for number, edit in enumerate(edits, 1):
        request = tiny_request()
        edit(request)
        assert refusal(stub, request).code is grpc.StatusCode.INVALID_ARGUMENT
        if number % 40 == 0:
            assert_serves(stub)
    assert_serves(stub)


def test_message_over_the_limit(stub: StyleTransferServiceStub) -> None:
    request = tiny_request()
    request.content.data += bytes(5 * 2**20)
    assert refusal(stub, request).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_serves(stub)


def test_encoder_without_weights(stub: StyleTransferServiceStub) -> None:
    request = tiny_request()
    request.encoder = "torchvision"
    responses = stub.Stylize(request, timeout=60)
    with pytest.raises(grpc.RpcError) as raised:
        list(responses)
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "vgg19-dcbb9e9d.pth" in str(raised.value.details())
    assert_serves(stub)


def test_encoder_whose_file_is_missing(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """Clients are told which encoder, the log where its file should be."""
    file = tmp_path / "missing.pth"
    server = start_server(encoder_files=json.dumps({"mine": str(file)}))
    request = tiny_request()
    request.encoder = "mine"
    server.wait_for_log("listening on")
    with server.stub() as stub:
        failure = failure_of(stub.Stylize(request, timeout=LONG))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "'mine'" in failure.message
    assert str(tmp_path) not in failure.message
    assert str(file) in server.log
