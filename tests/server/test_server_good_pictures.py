"""Pictures of every kind that is taken, and extreme ones that must not break a job."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from numpy.typing import NDArray
from PIL import Image
from server_jobs import Outcome, run_job, tiny_request

RGB = pictures.example("content.png")
UPRIGHT = (64, 96)


def _kept_pixels(stub: StyleTransferServiceStub, content: bytes, labels: bytes) -> tuple[NDArray[Any], Outcome]:
    """What the server has read: the kept half of the content image, as it comes out of a job."""
    request = pb.StylizeRequest(
        content=pb.Image(data=content),
        label_map=pb.Image(data=labels),
        segments=[
            pb.Segment(labels=[0], keep=True),
            pb.Segment(labels=[1], style=pb.Image(data=pictures.style("ink"))),
        ],
    )
    request.gatys.steps = 1
    request.gatys.background = 1
    outcome = run_job(stub, request)
    return np.asarray(pictures.opened(outcome.image)), outcome


def _halves(size: tuple[int, int]) -> bytes:
    """Label map: 0 above, 1 below."""
    labels = Image.new("L", size)
    labels.paste(1, (0, size[1] // 2, *size))
    return pictures.encoded(labels)


def _assert_reads(stub: StyleTransferServiceStub, content: bytes, expected: Image.Image, *, tolerance: int = 0) -> None:
    seen, outcome = _kept_pixels(stub, content, _halves(expected.size))
    (accepted,) = outcome.of("accepted")
    assert (accepted.width, accepted.height) == expected.size
    wanted = np.asarray(expected.convert("RGB"))
    assert seen.shape == wanted.shape
    half = expected.height // 2
    assert np.abs(seen[:half].astype(int) - wanted[:half]).max() <= tolerance


def test_grey(stub: StyleTransferServiceStub) -> None:
    grey = RGB.convert("L")
    _assert_reads(stub, pictures.encoded(grey), grey)


def test_palette(stub: StyleTransferServiceStub) -> None:
    palette = RGB.quantize(32)
    _assert_reads(stub, pictures.encoded(palette), palette)


def test_16_bit_grey(stub: StyleTransferServiceStub) -> None:
    grey = np.asarray(RGB.convert("L"))
    data = pictures.encoded(Image.fromarray(grey.astype(np.uint16) * 257))
    assert pictures.opened(data).mode == "I;16"
    _assert_reads(stub, data, Image.fromarray(grey))


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white(stub: StyleTransferServiceStub, file_format: str) -> None:
    rgba = RGB.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(RGB.size))
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}
    white = Image.alpha_composite(Image.new("RGBA", RGB.size, "white"), rgba)
    _assert_reads(stub, pictures.encoded(rgba, file_format, **options), white)


def test_transparent_palette_is_laid_over_white(stub: StyleTransferServiceStub) -> None:
    palette = RGB.quantize(8)
    data = pictures.encoded(palette, transparency=3)
    rgba = pictures.opened(data).convert("RGBA")
    _assert_reads(stub, data, Image.alpha_composite(Image.new("RGBA", RGB.size, "white"), rgba))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk(stub: StyleTransferServiceStub, file_format: str) -> None:
    data = pictures.encoded(RGB.convert("CMYK"), file_format)
    image = pictures.opened(data)
    assert image.mode == "CMYK"
    _assert_reads(stub, data, image)


def test_bmp(stub: StyleTransferServiceStub) -> None:
    _assert_reads(stub, pictures.encoded(RGB, "BMP"), RGB)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (3, Image.Transpose.ROTATE_180),
        (6, Image.Transpose.ROTATE_270),
        (8, Image.Transpose.ROTATE_90),
        (5, Image.Transpose.TRANSPOSE),
    ],
)
def test_exif_orientation(stub: StyleTransferServiceStub, orientation: int, turn: Image.Transpose) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = pictures.encoded(RGB, "JPEG", exif=exif)
    upright = pictures.opened(data).transpose(turn)
    assert (upright.size == UPRIGHT) == (orientation != 3)
    _assert_reads(stub, data, upright)


def test_unreadable_colour_profile_is_ignored_with_a_warning(stub: StyleTransferServiceStub) -> None:
    data = pictures.encoded(RGB, icc_profile=b"no profile at all")
    seen, outcome = _kept_pixels(stub, data, _halves(RGB.size))
    assert (seen[:32] == np.asarray(RGB)[:32]).all()
    (warning,) = outcome.of("warning")
    assert warning.code == "colour_profile_ignored"
    assert "content.data" in warning.message


def _colour_coded(colours: tuple[int, ...]) -> bytes:
    """The example's label map with a colour 0xRRGGBB for each label."""
    labels = np.asarray(pictures.example("labels.png"))
    packed = np.array(colours)[labels]
    rgb = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)
    return pictures.encoded(Image.fromarray(rgb))


def test_every_spelling_of_a_label_map_gives_the_same_picture(stub: StyleTransferServiceStub) -> None:
    palette = pictures.example("labels.png")
    values = np.asarray(palette)
    spellings = {
        "palette": (pictures.label_map(), (0, 1, 2)),
        "grey": (pictures.encoded(Image.fromarray(values * 100)), (0, 100, 200)),
        "16 bits": (pictures.encoded(Image.fromarray(values.astype(np.uint16) * 30_000)), (0, 30_000, 60_000)),
        "colours": (_colour_coded((0xFF0000, 0x00FF00, 0x0000FF)), (0xFF0000, 0x00FF00, 0x0000FF)),
        "lossless WebP": (pictures.encoded(palette.convert("RGB"), "WEBP", lossless=True), ()),
    }
    images = set()
    for data, labels in spellings.values():
        request = tiny_request(steps=1)
        request.label_map.data = data
        for index, segment in enumerate(request.segments):
            if labels:
                segment.labels[:] = [labels[index]]
            else:
                r, g, b = palette.convert("RGB").getpixel(_pixel_of(values, index))  # type: ignore[misc]
                segment.labels[:] = [r << 16 | g << 8 | b]
        images.add(pictures.opened(run_job(stub, request).image).tobytes())
    assert len(images) == 1


def _pixel_of(values: NDArray[Any], label: int) -> tuple[int, int]:
    y, x = np.argwhere(values == label)[0]
    return int(x), int(y)


def test_64_colours_are_still_a_label_map(stub: StyleTransferServiceStub) -> None:
    rgb = np.zeros((64, 96, 3), np.uint8)
    rgb[..., 0], rgb[..., 1] = np.arange(96) % 64, 200
    request = tiny_request(steps=1)
    request.label_map.data = pictures.encoded(Image.fromarray(rgb))
    del request.segments[1:]
    request.segments[0].labels[:] = [red << 16 | 200 << 8 for red in range(64)]
    assert run_job(stub, request).image


@pytest.mark.parametrize("method", ["masked_gram", "single_shot", "sequential_smooth"])
@pytest.mark.parametrize("what", ["content", "styles"])
def test_flat_pictures_have_finite_losses(stub: StyleTransferServiceStub, what: str, method: str) -> None:
    request = tiny_request(method)
    if what == "content":
        request.content.data = pictures.flat("black")
    else:
        for segment in request.segments:
            segment.style.data = pictures.flat("white")
    outcome = run_job(stub, request)
    assert all(math.isfinite(progress.total_loss) for progress in outcome.of("progress"))
    assert outcome.image


@pytest.mark.parametrize("weight", [0.0, 1e12])
@pytest.mark.parametrize("method", ["masked_gram", "sequential", "single_shot"])
def test_extreme_weights_within_the_range(stub: StyleTransferServiceStub, method: str, weight: float) -> None:
    fields = getattr(pb.StylizeRequest(), method).DESCRIPTOR.fields_by_name
    request = tiny_request(method, **{name: weight for name in fields if name.endswith("_weight")})
    for segment in request.segments:
        segment.style_weight = segment.content_weight = 0.0 if weight == 0 else 1e6
    outcome = run_job(stub, request)
    assert all(math.isfinite(progress.total_loss) for progress in outcome.of("progress"))


def test_segment_too_small_for_a_layer_is_warned_of(stub: StyleTransferServiceStub) -> None:
    labels = Image.new("L", pictures.CONTENT_SIZE)
    labels.paste(1, (8, 8, 12, 12))
    labels.paste(2, (50, 0, 96, 64))
    request = tiny_request()
    request.label_map.data = pictures.encoded(labels)
    outcome = run_job(stub, request)
    warnings = outcome.of("warning")
    assert {warning.code for warning in warnings} == {"segment_lost_at_layer"}
    assert any("segment 1" in warning.message and "relu5_1" in warning.message for warning in warnings)
