"""Building requests: every name, label and value, and what is said about wrong ones."""

from __future__ import annotations

import inspect
import io
import uuid
from pathlib import Path

import pytest
from fake_server import picture
from intarsia.errors import RequestError
from intarsia.request import DEFAULT_METHOD, PAPER_METHOD, StylizeOptions, build_request, method_names, parse_label
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image


def build(**options: object) -> pb.StylizeRequest:
    given = {"labels": b"labels", "styles": {0: b"zero", 1: b"one"}, **options}
    return build_request(b"content", **given)  # type: ignore[arg-type]


def test_defaults() -> None:
    request = build()
    assert request.content.data == b"content"
    assert request.label_map.data == b"labels"
    assert request.WhichOneof("method") == "blended"
    assert request.output.format == pb.IMAGE_FORMAT_PNG
    assert not request.output.HasField("size")
    assert not request.blended.HasField("steps")
    assert request.precision == pb.PRECISION_UNSPECIFIED
    assert uuid.UUID(request.request_id) != uuid.UUID(build().request_id)


def test_options_are_those_of_build_request() -> None:
    keywords = list(inspect.signature(build_request).parameters)[1:]
    assert list(StylizeOptions.__annotations__) == keywords


@pytest.mark.parametrize("method", method_names())
def test_every_method_takes_its_own_knobs(method: str) -> None:
    request = build(method=method, steps=7, parameters={"content_weight": "2.5"})
    assert request.WhichOneof("method") == method.replace("-", "_")
    message = getattr(request, method.replace("-", "_"))
    assert message.steps == 7
    assert message.content_weight == 2.5


@pytest.mark.parametrize(("paper", "default"), [(False, DEFAULT_METHOD), (True, PAPER_METHOD)])
def test_default_method(paper: bool, default: str) -> None:
    request = build(paper=paper)
    assert request.WhichOneof("method") == default.replace("-", "_")


def test_method_names_come_from_the_proto() -> None:
    assert {DEFAULT_METHOD, PAPER_METHOD} <= set(method_names())
    assert "sequential-smooth" in method_names()


@pytest.mark.parametrize(
    ("key", "value", "path", "expected"),
    [
        ("tv_weight", "1e-3", "blended.tv_weight", 1e-3),
        ("tv_weight", 0, "blended.tv_weight", 0.0),
        ("tv_weight", "inf", "blended.tv_weight", float("inf")),
        ("steps", "12", "blended.steps", 12),
        ("optimizer", "lbfgs", "optimization.optimizer", pb.OPTIMIZER_LBFGS),
        ("optimizer", "Adam", "optimization.optimizer", pb.OPTIMIZER_ADAM),
        ("start", "noise", "optimization.start", pb.START_NOISE),
        ("until", "converged", "optimization.until", pb.UNTIL_CONVERGED),
        ("learning_rate", "0.05", "optimization.learning_rate", 0.05),
        ("history", "5", "optimization.history", 5),
        ("quality", "80", "output.quality", 80),
        ("size", "320", "output.size", 320),
    ],
)
def test_parameters_find_their_message(key: str, value: object, path: str, expected: object) -> None:
    message, _, field = path.partition(".")
    target = getattr(build(parameters={key: value}), message)
    assert getattr(target, field) == expected
    assert not target.DESCRIPTOR.fields_by_name[field].has_presence or target.HasField(field)


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("off", False), (True, True)])
def test_switches(value: object, expected: bool) -> None:
    request = build(method="masked-gram", parameters={"capped_gradients": value})
    assert request.masked_gram.capped_gradients is expected


def test_segment_parameters_go_by_label() -> None:
    parameters = {"1.style_weight": "2", "#ff0000.style_scale": 0.5, "0.content_weight": 0}
    request = build(styles={"#FF0000": b"red", "1": b"one", 0: "keep"}, parameters=parameters)
    assert [list(segment.labels) for segment in request.segments] == [[0], [1], [0xFF0000]]
    kept, one, red = request.segments
    assert kept.keep
    assert kept.content_weight == 0
    assert kept.HasField("content_weight")
    assert one.style.data == b"one"
    assert one.style_weight == 2
    assert red.style_scale == 0.5


def test_full_segments() -> None:
    segments = [pb.Segment(labels=[3, 4], keep=True), pb.Segment(labels=[0], style=pb.Image(data=b"zero"))]
    request = build(styles={}, segments=segments, parameters={"4.content_weight": 3})
    assert [list(segment.labels) for segment in request.segments] == [[3, 4], [0]]
    assert request.segments[0].content_weight == 3


def test_named_options() -> None:
    request = build(
        paper=True, size=300, seed=2**64 - 1, precision="bf16", encoder="mine", preview_interval=5, output_format="webp"
    )
    assert request.paper
    assert (request.output.size, request.output.format) == (300, pb.IMAGE_FORMAT_WEBP)
    assert (request.seed, request.precision) == (2**64 - 1, pb.PRECISION_BF16)
    assert (request.encoder, request.preview_interval) == ("mine", 5)
    assert build(request_id="abc").request_id == "abc"


@pytest.mark.parametrize(
    ("until", "expected"),
    [(None, pb.UNTIL_UNSPECIFIED), ("steps", pb.UNTIL_STEPS), ("converged", pb.UNTIL_CONVERGED)],
)
def test_until(until: str | None, expected: pb.Until.ValueType) -> None:
    request = build(until=until)
    assert request.optimization.until == expected
    assert not request.blended.HasField("steps")  # how many at most is the server's to say


def test_start_image_is_started_from(tmp_path: Path) -> None:
    path = tmp_path / "start.png"
    path.write_bytes(b"start")
    optimization = build(parameters={"start_image": str(path)}).optimization
    assert optimization.start_image.data == b"start"
    assert optimization.start == pb.START_IMAGE
    assert build(parameters={"start_image": b"x", "start": "noise"}).optimization.start == pb.START_NOISE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mask-gram"}, r"unknown method 'mask-gram'. Did you mean 'masked-gram'\? Known: gatys, "),
        ({"method": "masked_gram"}, "Did you mean 'masked-gram'"),
        ({"parameters": {"tv_wieght": 1}}, r"unknown parameter 'tv_wieght'. Did you mean 'tv_weight'\?.*learning_rate"),
        ({"parameters": {"1.style_wait": 1}}, r"unknown parameter '1.style_wait'. Did you mean '1.style_weight'\?"),
        ({"parameters": {"1.keep": True}}, "unknown parameter '1.keep'"),
        ({"parameters": {"border_radius": 1}}, "unknown parameter 'border_radius'"),
        ({"parameters": {"7.style_weight": 1}}, "7.style_weight: no segment has the label 7. Labels: 0, 1."),
        ({"parameters": {"x.style_weight": 1}}, "label 'x' is neither"),
        ({"parameters": {"tv_weight": "much"}}, "tv_weight: expected number, got 'much'"),
        ({"parameters": {"steps": "1.5"}}, "steps: expected whole number, 0 or more, got '1.5'"),
        ({"parameters": {"steps": True}}, "steps: expected whole number"),
        ({"steps": -1}, "steps: -1 is out of range"),
        ({"steps": 2**32}, "steps: 4294967296 is out of range"),
        ({"seed": -1}, "seed: -1 is out of range"),
        (
            {"method": "masked-gram", "parameters": {"capped_gradients": "maybe"}},
            "capped_gradients: expected true or false, got 'maybe'",
        ),
        ({"parameters": {"optimizer": "sgd"}}, "optimizer: expected one of lbfgs, adam, got 'sgd'"),
        ({"parameters": {"optimizer": "unspecified"}}, "expected one of"),
        ({"parameters": {"start_image": 3}}, "start_image: expected a picture's path"),
        ({"until": "now"}, "until: expected one of steps, converged, got 'now'"),
        ({"until": "steps", "parameters": {"until": "converged"}}, "until is given both by its own argument"),
        ({"precision": "fp8"}, "unknown precision 'fp8'.*Known: auto, fp32, bf16"),
        ({"output_format": "gif"}, "format: expected one of png, jpeg, webp, got 'gif'"),
        ({"steps": 3, "parameters": {"steps": 4}}, "steps is given both"),
        ({"styles": {}}, "give either styles or segments"),
        ({"segments": [pb.Segment(labels=[0], keep=True)]}, "give either styles or segments"),
        ({"styles": {"#ff0000": b"a", 0xFF0000: b"b"}}, "has two styles"),
        ({"styles": {-1: b"a"}}, "label '-1' is neither"),
    ],
)
def test_errors_name_what_is_wrong(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        build(**options)


def test_steps_of_a_method_without_a_knob_of_that_name() -> None:
    with pytest.raises(RequestError, match=r"'capped_gradients'.*Known: steps, content_weight"):
        build(method="gatys", parameters={"capped_gradients": True})


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        build(styles={0: tmp_path / "nowhere.png"})


@pytest.mark.parametrize("label", ["#12345", "#gggggg", "1.0", "", "4294967296", -3])
def test_labels_that_are_none(label: int | str) -> None:
    with pytest.raises(RequestError, match="label"):
        parse_label(label)


def test_labels() -> None:
    assert [parse_label(label) for label in (0, "7", "#0000ff", 2**32 - 1)] == [0, 7, 255, 2**32 - 1]


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_pictures_as_paths_bytes_and_pil_images(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(file_format="JPEG"))
    labels = Image.new("P", (4, 2))
    labels.putpalette([0, 0, 0, 200, 200, 200])
    labels.putpixel((1, 1), 1)
    request = build_request(path, labels=labels, styles={0: str(path), 1: Image.new("CMYK", (4, 4))})
    assert request.content.data == path.read_bytes() == request.segments[0].style.data
    sent = decoded(request.label_map.data)
    assert (sent.mode, sent.getpixel((1, 1)), sent.getpixel((0, 0))) == ("P", 1, 0)
    assert decoded(request.segments[1].style.data).mode == "CMYK"


def test_wide_label_maps_and_orientation() -> None:
    labels = Image.new("I", (2, 1))
    labels.putpixel((1, 0), 40000)
    content = Image.new("RGB", (4, 2))
    content.getexif()[0x0112] = 6
    request = build_request(content, labels=labels, styles={0: "keep"})
    assert decoded(request.label_map.data).getpixel((1, 0)) == 40000
    assert decoded(request.content.data).getexif()[0x0112] == 6


@pytest.mark.parametrize(("mode", "value"), [("F", 0), ("I", 70000), ("I", -1)])
def test_pil_images_that_cannot_be_sent(mode: str, value: int) -> None:
    with pytest.raises(RequestError, match=f"mode {mode}"):
        build_request(b"", labels=Image.new(mode, (2, 2), value), styles={0: "keep"})
