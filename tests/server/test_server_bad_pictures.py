"""Pictures that are refused: broken, too large, too small, or not what a label map is."""

from __future__ import annotations

import random

import grpc
import numpy as np
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from PIL import Image
from server_jobs import Failure, assert_serves, refusal, tiny_request

BROKEN = {
    "empty": b"",
    "text": b"I am no picture. " * 10,
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='96' height='64'/>",
    "GIF": pictures.encoded(pictures.example("content.png"), "GIF"),
    "truncated PNG": pictures.content()[:2000],
    "truncated JPEG": pictures.encoded(pictures.example("content.png"), "JPEG")[:1000],
    "only a PNG's signature": pictures.content()[:8],
    "damaged PNG": pictures.content()[:500] + bytes(200) + pictures.content()[700:],
    "bomb": pictures.bomb(60_000),
    "bomb below Pillow's own limit": pictures.bomb(13_000),
}
PLACES = ("content", "label_map", "segments[1].style", "optimization.start_image")


def _place(data: bytes, place: str) -> pb.StylizeRequest:
    request = tiny_request()
    match place:
        case "content":
            request.content.data = data
        case "label_map":
            request.label_map.data = data
        case "segments[1].style":
            request.segments[1].style.data = data
        case _:
            request.optimization.start = pb.START_IMAGE
            request.optimization.start_image.data = data
    return request


def _assert_blames(failure: Failure, field: str) -> None:
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT, failure.message
    assert failure.field == field


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", BROKEN)
def test_broken_picture(stub: StyleTransferServiceStub, what: str, place: str) -> None:
    failure = refusal(stub, _place(BROKEN[what], place))
    if what == "empty" and place == "optimization.start_image":
        _assert_blames(failure, place)
    else:
        _assert_blames(failure, f"{place}.data")


def test_no_content(stub: StyleTransferServiceStub) -> None:
    request = tiny_request()
    request.ClearField("content")
    _assert_blames(refusal(stub, request), "content.data")


@pytest.mark.parametrize("size", [(96, 31), (31, 96), (1, 1)])
def test_content_or_style_below_the_encoders_reach(stub: StyleTransferServiceStub, size: tuple[int, int]) -> None:
    _assert_blames(refusal(stub, _place(pictures.content(size), "content")), "content.data")
    _assert_blames(refusal(stub, _place(pictures.content(size), "segments[1].style")), "segments[1].style.data")


def test_style_scaled_below_the_encoders_reach(stub: StyleTransferServiceStub) -> None:
    request = tiny_request()
    request.segments[1].style_scale = 0.2
    _assert_blames(refusal(stub, request), "segments[1].style_scale")


@pytest.mark.parametrize("size", [(93, 64), (64, 96), (192, 128)])
def test_label_map_of_another_size(stub: StyleTransferServiceStub, size: tuple[int, int]) -> None:
    _assert_blames(refusal(stub, _place(pictures.label_map(size), "label_map")), "label_map.data")


def test_colour_coded_label_map_with_too_many_colours(stub: StyleTransferServiceStub) -> None:
    colours = np.zeros((64, 96, 3), np.uint8)
    colours[..., 0], colours[..., 1] = np.arange(96), 200
    colours[..., 0] %= 65
    data = pictures.encoded(Image.fromarray(colours))
    failure = refusal(stub, _place(data, "label_map"))
    _assert_blames(failure, "label_map.data")
    assert "65 colours" in failure.message


def test_translucent_label_map(stub: StyleTransferServiceStub) -> None:
    data = pictures.flat("#ff000080", mode="RGBA")
    _assert_blames(refusal(stub, _place(data, "label_map")), "label_map.data")


def test_segment_that_vanishes_at_the_output_size(stub: StyleTransferServiceStub) -> None:
    labels = Image.new("L", pictures.CONTENT_SIZE)
    labels.putpixel((5, 5), 1)
    labels.paste(2, (50, 0, 96, 64))
    request = _place(pictures.encoded(labels), "label_map")
    request.output.size = 48
    _assert_blames(refusal(stub, request), "segments[1].labels")


@pytest.mark.parametrize("size", [40, 47])
def test_output_below_the_encoders_reach(stub: StyleTransferServiceStub, size: int) -> None:
    request = tiny_request()
    request.output.size = size
    _assert_blames(refusal(stub, request), "output.size")


def test_limit_of_pixels(narrow: StyleTransferServiceStub) -> None:
    """On a server that takes 40,000 pixels."""
    _assert_blames(refusal(narrow, _place(pictures.flat("red", (201, 200)), "content")), "content.data")
    _assert_blames(
        refusal(narrow, _place(pictures.flat("red", (201, 200)), "segments[1].style")), "segments[1].style.data"
    )
    request = tiny_request()
    request.output.size = 246
    _assert_blames(refusal(narrow, request), "output.size")
    request = tiny_request()
    request.output.size = 160
    request.segments[2].style_scale = 2.0
    _assert_blames(refusal(narrow, request), "segments[2].style_scale")
    assert_serves(narrow)


def test_broken_pictures_leave_the_server_well(stub: StyleTransferServiceStub) -> None:
    cases = [(data, place) for data in BROKEN.values() for place in PLACES]
    random.Random(1).shuffle(cases)
    for number, (data, place) in enumerate(cases, 1):
        assert refusal(stub, _place(data, place)).code is grpc.StatusCode.INVALID_ARGUMENT
        if number % 15 == 0:
            assert_serves(stub)
    assert_serves(stub)
