"""Every kind of segmentation through a real socket: transfers, the Segment call, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import known_network
import numpy as np
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from PIL import Image, ImageFilter
from server_jobs import failure, failure_of, refusal, run_job, tiny_request
from server_process import LONG, eventually, has_loaded_torch, running_server

WIDTH, HEIGHT = pictures.CONTENT_SIZE
SCENE = known_network.picture(HEIGHT, WIDTH)
LRASPP = pb.SEGMENTATION_MODEL_LRASPP_MOBILENET_V3_LARGE
SEGMENTATIONS = ("label_map", "soft_masks", "boxes", "scribbles", "automatic")


def object_scene() -> np.ndarray:
    """A red disc on a noisy blue ground."""
    pixels = np.full((HEIGHT, WIDTH, 3), (60, 80, 160), dtype=float)
    pixels[disc()] = (200, 60, 40)
    pixels += np.random.default_rng(0).normal(0, 8, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def disc() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    found: np.ndarray = (x - 48) ** 2 + (y - 32) ** 2 < 20**2
    return found


def encoded(pixels: np.ndarray) -> pb.Image:
    return pb.Image(data=pictures.encoded(Image.fromarray(pixels)))


def fill_in(request: pb.StylizeRequest | pb.SegmentRequest, kind: str) -> None:
    """The disc as label 1 and the ground as 0, said in the given way (automatic: the network's own scene)."""
    request.content.CopyFrom(encoded(SCENE if kind == "automatic" else object_scene()))
    match kind:
        case "label_map":
            request.label_map.CopyFrom(encoded(disc().astype(np.uint8)))
        case "soft_masks":
            mask = Image.fromarray((disc() * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
            request.soft_masks.masks.add(label=1, image=pb.Image(data=pictures.encoded(mask)))
        case "boxes":
            request.boxes.boxes.add(label=1, left=24, top=8, right=72, bottom=56)
        case "scribbles":
            marks = np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)
            marks[30:34, 40:56], marks[2:4, 4:92] = 1, 0
            request.scribbles.image.CopyFrom(encoded(marks))
        case _:
            request.automatic.model = LRASPP


def stylize_request(kind: str, labels: tuple[int, ...] = (0, 1)) -> pb.StylizeRequest:
    request = tiny_request(steps=1)
    del request.segments[2:]
    for segment, label in zip(request.segments, labels, strict=True):
        segment.labels[:] = [label]
    fill_in(request, kind)
    return request


def segment_request(kind: str) -> pb.SegmentRequest:
    request = pb.SegmentRequest()
    fill_in(request, kind)
    return request


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StyleTransferServiceStub]:
    """A server whose operator has brought a network."""
    weights = tmp_path_factory.mktemp("weights") / "known.pth"
    known_network.write_weights(weights)
    with running_server(segmentation_files=f'{{"lraspp_mobilenet_v3_large": "{weights}"}}') as server:
        server.wait_until_ready()
        with server.stub() as stub:
            yield stub
        assert not has_loaded_torch(server.process.pid)


@pytest.mark.parametrize("kind", SEGMENTATIONS)
def test_transfer(stub: StyleTransferServiceStub, kind: str) -> None:
    outcome = run_job(stub, stylize_request(kind, (12, 15) if kind == "automatic" else (0, 1)))
    assert outcome.image
    assert not outcome.of("warning")


@pytest.mark.parametrize("kind", SEGMENTATIONS)
def test_segment(stub: StyleTransferServiceStub, kind: str) -> None:
    response = stub.Segment(segment_request(kind), timeout=LONG)
    image = pictures.opened(response.label_map.data)
    assert image.mode == "P"
    labels = np.asarray(image)
    assert labels.shape == (HEIGHT, WIDTH)
    found = {item.label: item for item in response.segments}
    if kind == "automatic":
        assert {label: item.name for label, item in found.items()} == {12: "dog", 15: "person"}
    else:
        assert {label: item.name for label, item in found.items()} == {0: "", 1: ""}
        assert iou(labels == 1, disc()) > 0.9
    for label, item in found.items():
        assert item.share == pytest.approx((labels == label).mean())
    again = stub.Segment(segment_request(kind), timeout=LONG)
    assert again == response


def test_a_found_label_map_is_taken_as_one(stub: StyleTransferServiceStub) -> None:
    request = stylize_request("scribbles")
    marks = np.zeros((HEIGHT, WIDTH, 4), dtype=np.uint8)
    marks[30:34, 40:56], marks[2:4, 4:92] = (255, 0, 0, 255), (0, 0, 255, 255)
    asked = segment_request("scribbles")
    asked.scribbles.image.CopyFrom(encoded(marks))
    response = stub.Segment(asked, timeout=LONG)
    assert [item.label for item in response.segments] == [0x0000FF, 0xFF0000]
    request.label_map.CopyFrom(response.label_map)
    request.segments[0].labels[:], request.segments[1].labels[:] = [0x0000FF], [0xFF0000]
    assert run_job(stub, request).image


def test_16_bit_labels_come_back(stub: StyleTransferServiceStub) -> None:
    request = segment_request("boxes")
    request.boxes.boxes[0].label = 40_000
    response = stub.Segment(request, timeout=LONG)
    assert set(np.unique(np.asarray(pictures.opened(response.label_map.data))).tolist()) == {0, 40_000}


def test_a_jpeg_label_map_works_with_a_warning(stub: StyleTransferServiceStub) -> None:
    request = stylize_request("label_map", (0xFF0000, 0x0000FF))
    colours = np.where(disc()[..., None], (0, 0, 255), (255, 0, 0)).astype(np.uint8)
    request.label_map.data = pictures.encoded(Image.fromarray(colours), "JPEG", quality=75)
    outcome = run_job(stub, request)
    assert outcome.of("warning")[0].code == "label_colours_snapped"


def test_classes_that_nobody_claims(stub: StyleTransferServiceStub) -> None:
    outcome = run_job(stub, stylize_request("automatic", (0, 15)))
    assert [warning.code for warning in outcome.of("warning")] == ["classes_unclaimed"]
    late = failure_of(stub.Stylize(stylize_request("automatic", (3, 15)), timeout=LONG))
    assert (late.code, late.field) == (grpc.StatusCode.INVALID_ARGUMENT, "automatic")


def test_a_network_without_weights(stub: StyleTransferServiceStub) -> None:
    request = segment_request("automatic")
    request.automatic.ClearField("model")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(request, timeout=LONG)
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "fcn_resnet101_coco-7ecb50ca.pth is not in the torch hub cache" in str(error.details())


def test_an_object_that_is_not_found(stub: StyleTransferServiceStub) -> None:
    request = stylize_request("boxes")
    request.content.data = pictures.flat("grey")
    late = failure_of(stub.Stylize(request, timeout=LONG))
    assert (late.code, late.field) == (grpc.StatusCode.INVALID_ARGUMENT, "boxes.boxes[0]")


def test_a_cancelled_call_frees_the_worker(stub: StyleTransferServiceStub) -> None:
    request = segment_request("boxes")
    request.content.data = pictures.content((1200, 800))
    del request.boxes.boxes[:]
    for index in range(200):
        request.boxes.boxes.add(label=1, left=index, top=index, right=900 + index, bottom=500 + index)
    call = stub.Segment.future(request, timeout=LONG)
    eventually(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).running_jobs == 1, "the job to run")
    call.cancel()
    eventually(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).running_jobs == 0, "the job to end")


Edit = Callable[[pb.StylizeRequest], object]


def _set_mask(request: pb.StylizeRequest, data: bytes) -> None:
    request.soft_masks.masks[0].image.data = data


REFUSALS: dict[str, tuple[str, Edit, str]] = {
    "no masks": ("soft_masks", lambda r: r.soft_masks.ClearField("masks"), "soft_masks.masks"),
    "two masks of one label": (
        "soft_masks",
        lambda r: r.soft_masks.masks.append(r.soft_masks.masks[0]),
        "soft_masks.masks[1].label",
    ),
    "a mask that is no picture": ("soft_masks", lambda r: _set_mask(r, b"no"), "soft_masks.masks[0].image.data"),
    "a mask of another size": (
        "soft_masks",
        lambda r: _set_mask(r, pictures.flat(9, (90, 64), "L")),
        "soft_masks.masks[0].image.data",
    ),
    "a mask without a style": ("soft_masks", lambda r: r.segments.pop(1), "soft_masks.masks"),
    "a label beyond 24 bits": (
        "soft_masks",
        lambda r: setattr(r.soft_masks.masks[0], "label", 2**24),
        "soft_masks.masks[0].label",
    ),
    "no boxes": ("boxes", lambda r: r.boxes.ClearField("boxes"), "boxes.boxes"),
    "box of label 0": ("boxes", lambda r: setattr(r.boxes.boxes[0], "label", 0), "boxes.boxes[0].label"),
    "box beyond the picture": ("boxes", lambda r: setattr(r.boxes.boxes[0], "right", 97), "boxes.boxes[0].right"),
    "box turned over": ("boxes", lambda r: setattr(r.boxes.boxes[0], "top", 60), "boxes.boxes[0].bottom"),
    "ground without a style": ("boxes", lambda r: r.segments.pop(0), "boxes.boxes"),
    "a style without a box": ("boxes", lambda r: r.segments.add(labels=[9], keep=True), "segments[2].labels"),
    "scribbles that are no picture": (
        "scribbles",
        lambda r: setattr(r.scribbles.image, "data", b"no"),
        "scribbles.image.data",
    ),
    "scribbles of one label": (
        "scribbles",
        lambda r: setattr(r.scribbles.image, "data", pictures.flat(1, mode="L")),
        "scribbles.image.data",
    ),
    "scribbles without a style": ("scribbles", lambda r: r.segments.pop(1), "scribbles.image.data"),
    "unknown model": ("automatic", lambda r: setattr(r.automatic, "model", 99), "automatic.model"),
    "label that is no class": ("automatic", lambda r: r.segments[0].labels.append(21), "segments[0].labels"),
    "label claimed twice": ("automatic", lambda r: r.segments[0].labels.append(1), "segments[1].labels"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_naming_the_field(stub: StyleTransferServiceStub, name: str) -> None:
    kind, edit, field = REFUSALS[name]
    request = stylize_request(kind)
    edit(request)
    refused = refusal(stub, request)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT, refused.message
    assert refused.field == field


@pytest.mark.parametrize("kind", ["", "label_map", "boxes"])
def test_segment_refuses_naming_the_field(stub: StyleTransferServiceStub, kind: str) -> None:
    request = segment_request(kind or "label_map")
    match kind:
        case "":
            request.ClearField("label_map")
            field = "label_map"
        case "label_map":
            request.label_map.CopyFrom(encoded(object_scene()))
            field = "label_map.data"
        case _:
            request.boxes.boxes[0].bottom = 65
            field = "boxes.boxes[0].bottom"
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(request, timeout=LONG)
    assert failure(caught.value).field == field
