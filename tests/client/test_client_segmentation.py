"""Saying where the segments lie: requests, both clients' `segment`, and the command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from command_line import STYLES, cli
from fake_server import FakeServer, Script, abort, bad_request, completed, found_labels, good_job
from intarsia import AsyncClient, Client, IntarsiaError, RequestError, build_request, build_segment_request, model_names
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image

Serve = Callable[[Script], FakeServer]
OPTIONS: dict[str, dict[str, Any]] = {
    "label_map": {"labels": b"labels"},
    "soft_masks": {"masks": {1: b"one", "#00ff00": b"green"}},
    "boxes": {"boxes": [(1, 2, 3, 40, 50), ("#00ff00", 0, 0, 9, 9)]},
    "scribbles": {"scribbles": b"marks"},
    "automatic": {"automatic": "lraspp-mobilenet-v3-large"},
}


def check(request: pb.StylizeRequest | pb.SegmentRequest, kind: str) -> None:
    assert request.WhichOneof("segmentation") == kind
    match kind:
        case "label_map":
            assert request.label_map.data == b"labels"
        case "soft_masks":
            assert [(mask.label, mask.image.data) for mask in request.soft_masks.masks] == [
                (1, b"one"),
                (0x00FF00, b"green"),
            ]
        case "boxes":
            assert list(request.boxes.boxes) == [
                pb.Box(label=1, left=2, top=3, right=40, bottom=50),
                pb.Box(label=0x00FF00, right=9, bottom=9),
            ]
        case "scribbles":
            assert request.scribbles.image.data == b"marks"
        case _:
            assert request.automatic.model == pb.SEGMENTATION_MODEL_LRASPP_MOBILENET_V3_LARGE


@pytest.mark.parametrize("kind", OPTIONS)
def test_requests_of_every_kind(kind: str) -> None:
    check(build_request(b"content", styles={0: "keep"}, **OPTIONS[kind]), kind)
    check(build_segment_request(b"content", **OPTIONS[kind]), kind)


def test_models() -> None:
    assert model_names() == ["fcn-resnet101", "deeplabv3-resnet101", "lraspp-mobilenet-v3-large"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of labels, masks, boxes, scribbles, automatic; got none"),
        ({"labels": b"l", "boxes": [(1, 0, 0, 9, 9)]}, "got labels and boxes"),
        ({"masks": {}}, "got none"),
        ({"masks": {"x": b"one"}}, "label 'x' is neither"),
        ({"boxes": [(1, 2, 3)]}, "expected label, left, top, right, bottom"),
        ({"boxes": [(1, -2, 3, 9, 9)]}, "expected label, left, top, right, bottom"),
        ({"boxes": [(1, 0.5, 3, 9, 9)]}, "expected label, left, top, right, bottom"),
        ({"automatic": "fcn_resnet101"}, "unknown model 'fcn_resnet101'. Did you mean 'fcn-resnet101'"),
    ],
)
def test_errors_name_what_is_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build_segment_request(b"content", **options)


def segment(fake: FakeServer, **options: Any) -> pb.SegmentResponse:
    with Client(fake.address) as client:
        return client.segment(b"content", timeout=5, **options)


def segment_async(fake: FakeServer, **options: Any) -> pb.SegmentResponse:
    async def go() -> pb.SegmentResponse:
        async with AsyncClient(fake.address) as client:
            return await client.segment(b"content", timeout=5, **options)

    return asyncio.run(go())


@pytest.mark.parametrize("run", [segment, segment_async])
def test_both_clients_segment(server: FakeServer, run: Callable[..., pb.SegmentResponse]) -> None:
    assert run(server, boxes=[(1, 2, 3, 40, 50)]) == found_labels()
    (request,) = server.segment_requests
    assert request.content.data == b"content"
    assert request.boxes.boxes[0].bottom == 50


@pytest.mark.parametrize("run", [segment, segment_async])
def test_both_clients_raise(serve: Serve, run: Callable[..., pb.SegmentResponse]) -> None:
    fake = serve(good_job)
    fake.segment_failure = lambda context: abort(
        context, grpc.StatusCode.INVALID_ARGUMENT, "bad", bad_request(("boxes.boxes[0]", "no object"))
    )
    with pytest.raises(IntarsiaError) as caught:
        run(fake, boxes=[(1, 2, 3, 40, 50)])
    assert caught.value.violations == (("boxes.boxes[0]", "no object"),)


FLAGS: dict[str, list[str]] = {
    "label_map": ["--labels", "labels.png"],
    "soft_masks": ["--mask", "1=labels.png", "--mask", "#00ff00=glass.png"],
    "boxes": ["--box", "1=2,3,40,50", "--box", "#00ff00=0,0,9,9"],
    "scribbles": ["--scribbles", "labels.png"],
    "automatic": ["--auto", "fcn-resnet101"],
}


@pytest.mark.parametrize("kind", FLAGS)
def test_stylize_takes_every_kind(server: FakeServer, pictures: Path, kind: str) -> None:
    done = cli("stylize", "content.png", *FLAGS[kind], *STYLES, "--server", server.address)
    assert done.exit_code == 0, done.stderr
    (request,) = server.requests
    assert request.WhichOneof("segmentation") == kind
    if kind == "boxes":
        check(request, kind)
    if kind == "soft_masks":
        assert [mask.label for mask in request.soft_masks.masks] == [1, 0x00FF00]
        assert request.soft_masks.masks[1].image.data == (pictures / "glass.png").read_bytes()


@pytest.mark.parametrize("kind", FLAGS)
def test_segment_takes_every_kind(server: FakeServer, pictures: Path, kind: str) -> None:
    done = cli("segment", "content.png", *FLAGS[kind], "-o", "out.png", "--server", server.address)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out.png\n"
    assert (pictures / "out.png").read_bytes() == found_labels().label_map.data
    assert server.segment_requests[0].WhichOneof("segmentation") == kind
    rows = [line.split() for line in done.stderr.splitlines()]
    assert rows == [
        ["warning:", "a", "speck", "(label_slivers_filled)"],
        ["label", "name", "share"],
        ["0", "background", "75.0%"],
        ["12", "dog", "25.0%"],
    ]


def test_segment_names_its_output_after_the_content(server: FakeServer, pictures: Path) -> None:
    done = cli("segment", "content.png", *FLAGS["boxes"], "--server", server.address)
    assert done.stdout == "content.labels.png\n"
    assert (pictures / "content.labels.png").exists()


@pytest.mark.parametrize("labels", [(0, 12), (0, 40_000), (0x0000FF, 0xFF0000)])
def test_overlay(serve: Serve, pictures: Path, labels: tuple[int, int]) -> None:
    """Labels of 8, 16 and 24 bits come as different kinds of picture."""
    fake = serve(good_job)
    fake.found = found_labels(labels)
    flags = [*FLAGS["boxes"], "--server", fake.address]
    assert cli("segment", "content.png", *flags, "--overlay", "overlay.jpg").exit_code == 0
    overlay = Image.open(pictures / "overlay.jpg")
    assert (overlay.format, overlay.size) == ("JPEG", (60, 40))
    left, right = overlay.getpixel((10, 20)), overlay.getpixel((55, 20))
    assert isinstance(left, tuple)
    assert isinstance(right, tuple)
    assert max(abs(one - other) for one, other in zip(left, right, strict=True)) > 40


def test_an_overlay_of_too_many_labels_leaves_nothing(server: FakeServer, pictures: Path) -> None:
    server.found = pb.SegmentResponse(
        label_map=found_labels((0, 300)).label_map, segments=[pb.FoundSegment(label=label) for label in range(257)]
    )
    flags = [*FLAGS["boxes"], "--server", server.address, "-o", "out.png", "--overlay", "overlay.png"]
    done = cli("segment", "content.png", *flags)
    assert done.exit_code == 2
    assert "--overlay shows at most 256 labels, and there are 257" in done.stderr
    assert not (pictures / "out.png").exists()
    assert not (pictures / "overlay.png").exists()


def test_an_overlay_shows_pictures_of_16_bits(server: FakeServer, pictures: Path) -> None:
    flags = [*FLAGS["boxes"], "--server", server.address, "--overlay", "overlay.png"]
    shown = []
    for content in (Image.new("L", (60, 40), 100), Image.new("I;16", (60, 40), 100 * 257)):
        content.save(pictures / "content.png")
        assert cli("segment", "content.png", *flags).exit_code == 0
        shown.append(Image.open(pictures / "overlay.png").tobytes())
    assert shown[0] == shown[1]


def test_names_that_are_no_text_are_printed_as_they_are(server: FakeServer, pictures: Path) -> None:
    flags = [*FLAGS["boxes"], "--server", server.address, "-o", b"out\xff.png"]
    command = [sys.executable, "-m", "intarsia", "segment", "content.png", *flags]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"out\xff.png\n"), done.stderr


class Whole:
    """A whole number that is no int, like numpy's."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_boxes_take_whole_numbers_of_any_kind() -> None:
    box: Any = (1, Whole(2), Whole(3), Whole(40), 50)
    check_box = build_segment_request(b"content", boxes=[box]).boxes.boxes[0]
    assert check_box == pb.Box(label=1, left=2, top=3, right=40, bottom=50)


@pytest.mark.parametrize("command", [["stylize", *STYLES], ["segment"]])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give exactly one of --labels, --mask, --box, --scribbles, --auto; got none"),
        (["--labels", "labels.png", "--auto", "fcn-resnet101"], "got --labels and --auto"),
        (["--mask", "1"], "--mask 1: expected LABEL=FILE"),
        (["--mask", "1=labels.png", "--mask", "1=glass.png"], "--mask 1 is given twice"),
        (["--mask", "1=nowhere.png"], "nowhere.png: No such file"),
        (["--box", "1=2,3,4"], "--box 1=2,3,4: expected LABEL=LEFT,TOP,RIGHT,BOTTOM in pixels"),
        (["--box", "1=a,3,4,5"], "expected LABEL=LEFT,TOP,RIGHT,BOTTOM"),
        (["--box", "x=2,3,4,5"], "label 'x' is neither"),
        (["--auto", "fcn"], "unknown model 'fcn'. Did you mean 'fcn-resnet101'?"),
    ],
)
def test_wrong_usage(server: FakeServer, pictures: Path, command: list[str], flags: list[str], message: str) -> None:
    done = cli(command[0], "content.png", *command[1:], *flags, "--server", server.address)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not server.requests + server.segment_requests


@pytest.mark.parametrize("output", [["-o", "out.jpg"], ["--overlay", "out.gif"], ["-o", "nowhere/out.png"]])
def test_outputs_are_checked_first(server: FakeServer, pictures: Path, output: list[str]) -> None:
    assert cli("segment", "content.png", *FLAGS["boxes"], *output, "--server", server.address).exit_code == 2
    assert not server.segment_requests


VIOLATIONS = {
    "soft_masks.masks[1].image.data": ("soft_masks", "--mask #00ff00=glass.png"),
    "soft_masks.masks": ("soft_masks", "--mask"),
    "boxes.boxes[0]": ("boxes", "--box 1=2,3,40,50"),
    "boxes.boxes[1].right": ("boxes", "--box #00ff00=0,0,9,9"),
    "scribbles.image.data": ("scribbles", "--scribbles"),
    "automatic.model": ("automatic", "--auto"),
}


@pytest.mark.parametrize("field", VIOLATIONS)
def test_fields_are_named_as_they_were_typed(serve: Serve, pictures: Path, field: str) -> None:
    kind, typed = VIOLATIONS[field]

    def fail(context: Any) -> None:
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, "bad", bad_request((field, "is bad")))

    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Any:
        fail(context)
        yield completed()

    fake = serve(script)
    fake.segment_failure = fail
    expected = f"intarsia: {typed} ({field}): is bad\n"
    done = cli("segment", "content.png", *FLAGS[kind], "--server", fake.address)
    assert (done.exit_code, done.stderr) == (2, expected)
    done = cli("stylize", "content.png", *FLAGS[kind], *STYLES, "--server", fake.address)
    assert (done.exit_code, done.stderr) == (2, expected)


def test_help_lists_the_choices() -> None:
    for command in ("stylize", "segment"):
        shown = cli(command, "--help").stdout
        assert all(flag in shown for flag in ("--labels", "--mask", "--box", "--scribbles", "--auto"))
