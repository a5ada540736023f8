"""Decoding of pictures of every kind, and encoding of results."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import cover, decode_rgb, encode, fit_longer_side, resize
from intarsia_server.engine.request import ImageFormat
from pictures import LIMIT, encoded, gradient, raw_png, srgb_profile, swapped_profile
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

WHITE = [255, 255, 255]


def decode(data: bytes) -> np.ndarray:
    """Decodes what should need no warning."""
    decoded = decode_rgb(data, "content.data", max_pixels=LIMIT)
    assert decoded.warning is None
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.shape[2] == 3
    return decoded.pixels


def assert_close(found: np.ndarray, expected: object, tolerance: int) -> None:
    expected = np.broadcast_to(np.asarray(expected, dtype=int), found.shape)
    assert np.abs(found.astype(int) - expected).max() <= tolerance


def refused(data: bytes, max_pixels: int = LIMIT) -> str:
    with pytest.raises(InvalidInputError) as caught:
        decode_rgb(data, "content.data", max_pixels=max_pixels)
    assert caught.value.field == "content.data"
    return caught.value.reason


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_rgb_comes_out_as_it_is(file_format: str) -> None:
    pixels = gradient(6, 9)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), file_format)), pixels)


def test_lossy_formats_come_out_close() -> None:
    pixels = gradient(16, 16)
    assert_close(decode(encoded(Image.fromarray(pixels), "JPEG", quality=98, subsampling=0)), pixels, 8)
    assert np.array_equal(decode(encoded(Image.fromarray(pixels), "WEBP", lossless=True)), pixels)


def test_format_outside_the_list_is_refused() -> None:
    assert "PNG, JPEG, WEBP, TIFF, BMP" in refused(encoded(Image.fromarray(gradient(6, 9)), "GIF"))


def test_grey() -> None:
    grey = gradient(6, 9)[..., 0]
    assert np.array_equal(decode(encoded(Image.fromarray(grey))), np.stack([grey] * 3, axis=2))


def test_one_bit() -> None:
    bits = gradient(6, 9)[..., 0] > 40
    assert np.array_equal(decode(encoded(Image.fromarray(bits))), np.stack([bits * 255] * 3, axis=2))


def test_alpha_is_laid_over_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0] = [[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]
    assert_close(decode(encoded(Image.fromarray(rgba))), [[[200, 100, 0], WHITE, [244, 224, 204]]], 1)


def test_grey_with_alpha_is_laid_over_white() -> None:
    image = Image.merge("LA", [Image.new("L", (2, 1), 100), Image.fromarray(np.array([[255, 0]], dtype=np.uint8))])
    assert_close(decode(encoded(image)), [[[100] * 3, WHITE]], 0)


def palette(values: list[list[int]]) -> Image.Image:
    image = Image.fromarray(np.array(values, dtype=np.uint8)).convert("L")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return image


def test_palette() -> None:
    assert_close(decode(encoded(palette([[0, 1, 2]]))), [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]], 0)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_palette_with_transparency(transparency: int | bytes) -> None:
    data = encoded(palette([[0, 1, 2]]), transparency=transparency)
    assert_close(decode(data), [[[10, 20, 30], WHITE, [70, 80, 90]]], 0)


def test_one_transparent_colour() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8))
    assert_close(decode(encoded(image, transparency=(1, 2, 3))), [[WHITE, [4, 5, 6]]], 0)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(file_format: str, dtype: str) -> None:
    values = np.array([[0, 257, 25700, 32768, 65535]])
    data = encoded(Image.fromarray(values.astype(dtype)), file_format)
    expected = np.array([[0, 1, 100, 127.5, 255]])
    assert np.abs(decode(data) - expected[..., None]).max() <= 0.5


def test_16_bit_colour() -> None:
    row = struct.pack(">6H", 65535, 257 * 100, 0, 257 * 7, 257 * 8, 257 * 9)
    assert_close(decode(raw_png(2, 1, 16, 2, [row])), [[[255, 100, 0], [7, 8, 9]]], 1)


def test_16_bit_colour_with_alpha() -> None:
    row = struct.pack(">8H", 257 * 50, 0, 0, 65535, 257 * 50, 0, 0, 0)
    assert_close(decode(raw_png(2, 1, 16, 6, [row])), [[[50, 0, 0], WHITE]], 1)


def test_float_pixels_are_refused() -> None:
    assert "8 or 16 bits" in refused(encoded(Image.fromarray(np.full((3, 3), 0.5, dtype=np.float32)), "TIFF"))


@pytest.mark.parametrize("value", [-1, 70_000])
def test_32_bit_pixels_are_refused(value: int) -> None:
    assert "8 or 16 bits" in refused(encoded(Image.fromarray(np.full((3, 3), value, dtype=np.int32)), "TIFF"))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk(file_format: str, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    assert_close(decode(encoded(Image.new("CMYK", (16, 16), ink), file_format)), colour, 3)


STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
"""How a camera stores an upright picture, by EXIF orientation; 6: it must be turned clockwise to be seen."""


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation: int) -> None:
    upright = gradient(6, 9)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(stored, exif=exif)), upright)


def test_exif_orientation_of_a_jpeg() -> None:
    upright = np.repeat(np.repeat(gradient(3, 4), 16, axis=0), 16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    assert_close(decode(encoded(stored, "JPEG", quality=98, subsampling=0, exif=exif)), upright, 6)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "JPEG"])
def test_profile_is_converted(file_format: str) -> None:
    options = {"quality": 98, "subsampling": 0} if file_format == "JPEG" else {}
    pixels = np.broadcast_to(np.array([200, 100, 30], dtype=np.uint8), (16, 16, 3))
    data = encoded(Image.fromarray(pixels.copy()), file_format, icc_profile=swapped_profile(), **options)
    assert_close(decode(data), [30, 100, 200], 4)


def test_srgb_profile_changes_nothing() -> None:
    pixels = gradient(6, 9)
    assert_close(decode(encoded(Image.fromarray(pixels), icc_profile=srgb_profile())), pixels, 1)


def test_profile_beside_alpha() -> None:
    rgba = np.array([[[200, 100, 30, 255], [200, 100, 30, 0], [200, 100, 30, 51]]], dtype=np.uint8)
    data = encoded(Image.fromarray(rgba), icc_profile=swapped_profile())
    assert_close(decode(data), [[[30, 100, 200], WHITE, [210, 224, 244]]], 2)


def test_profile_beside_one_transparent_colour() -> None:
    image = Image.fromarray(np.array([[[200, 100, 30], [4, 5, 6]]], dtype=np.uint8))
    data = encoded(image, transparency=(4, 5, 6), icc_profile=swapped_profile())
    assert_close(decode(data), [[[30, 100, 200], WHITE]], 2)


def test_profile_of_a_palette() -> None:
    data = encoded(palette([[0, 1, 2]]), icc_profile=swapped_profile())
    assert_close(decode(data), [[[30, 20, 10], [60, 50, 40], [90, 80, 70]]], 2)


def test_profile_of_a_picture_turned_by_exif() -> None:
    upright = gradient(6, 9)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    assert_close(decode(encoded(stored, exif=exif, icc_profile=swapped_profile())), upright[..., ::-1], 2)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "CMYK"])
def test_broken_profile_is_ignored_with_a_warning(mode: str) -> None:
    image = Image.fromarray(gradient(6, 9)).convert(mode)
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode_rgb(
        encoded(image, file_format, icc_profile=b"not a profile"), "segments[1].style.data", max_pixels=LIMIT
    )
    assert decoded.warning is not None
    assert decoded.warning.startswith("segments[1].style.data: ")
    assert np.array_equal(decoded.pixels, np.asarray(image.convert("RGB")))


def test_profile_of_other_channels_is_ignored_with_a_warning() -> None:
    """An RGB profile on a grey picture."""
    grey = Image.fromarray(gradient(6, 9)).convert("L")
    decoded = decode_rgb(encoded(grey, icc_profile=srgb_profile()), "content.data", max_pixels=LIMIT)
    assert decoded.warning is not None
    assert np.array_equal(decoded.pixels, np.asarray(grey.convert("RGB")))


def test_empty_is_refused() -> None:
    assert refused(b"") == "is empty"


@pytest.mark.parametrize("data", [b"x", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\0" * 5000, b"II*\0"])
def test_garbage_is_refused(data: bytes) -> None:
    assert "cannot be decoded" in refused(data)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_truncated_is_refused(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    for share in (0.02, 0.5, 0.9):
        assert "cannot be decoded" in refused(data[: int(len(data) * share)])


def test_flipped_byte_is_refused_or_decoded() -> None:
    """Whatever a decoder raises, it ends as a refusal."""
    data = encoded(Image.fromarray(gradient(12, 12)))
    for at in range(8, len(data)):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        try:
            decode_rgb(bytes(broken), "content.data", max_pixels=LIMIT)
        except InvalidInputError as error:
            assert error.field == "content.data"  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("side", [1001, 12_000, 20_000, 2**31 - 1])
def test_bomb_is_refused_by_its_header(side: int) -> None:
    """Decoding would fail too, for want of data; the limit must speak first."""
    assert "limit of 1000000" in refused(raw_png(side, side, 8, 2, [b"\0\0\0"]))


def test_the_limit_itself_is_allowed() -> None:
    data = encoded(Image.new("RGB", (20, 10)))
    assert decode_rgb(data, "content.data", max_pixels=200).pixels.shape == (10, 20, 3)
    assert "20x10" in refused(data, max_pixels=199)


def test_png_carries_text() -> None:
    text = {"Software": "intarsia 1.2.3", "intarsia": '{"a": [1, 2], "name": "Straße ✓"}' + "x" * 5000}
    pixels = gradient(6, 9)
    image = Image.open(io.BytesIO(encode(pixels, ImageFormat.PNG, text=text)))
    assert isinstance(image, PngImageFile)
    assert np.array_equal(np.asarray(image), pixels)
    assert image.text == text


@pytest.mark.parametrize("image_format", ImageFormat)
def test_result_can_be_decoded(image_format: ImageFormat) -> None:
    pixels = gradient(16, 16)
    data = encode(pixels, image_format, quality=98, text={"intarsia": "x"})
    assert Image.open(io.BytesIO(data)).format == image_format.upper()
    assert_close(decode(data), pixels, 0 if image_format is ImageFormat.PNG else 16)


def test_quality_counts() -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    for image_format in (ImageFormat.JPEG, ImageFormat.WEBP):
        assert len(encode(noise, image_format, quality=20)) < len(encode(noise, image_format, quality=95)) / 2


def test_resize_and_its_identity() -> None:
    pixels = gradient(6, 9)
    assert np.array_equal(resize(pixels, 9, 6), pixels)
    assert resize(pixels, 5, 4).shape == (4, 5, 3)


def test_cover_crops_about_the_centre_and_keeps_proportions() -> None:
    """A disc stays a disc, in the middle."""
    y, x = np.mgrid[:100, :200]
    disc = np.where(((y - 49.5) ** 2 + (x - 99.5) ** 2 < 30**2)[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    for width, height in ((50, 50), (100, 50), (60, 90)):
        covered = cover(disc, width, height)
        assert covered.shape == (height, width, 3)
        inside = covered[..., 0] > 127
        rows, columns = np.nonzero(inside)
        assert abs(rows.mean() - (height - 1) / 2) < 0.6
        assert abs(columns.mean() - (width - 1) / 2) < 0.6
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 1
        assert np.ptp(rows) == pytest.approx(60 * max(width / 200, height / 100), abs=2)


@pytest.mark.parametrize(
    ("size", "longer", "expected"),
    [((600, 400), 300, (300, 200)), ((400, 600), 300, (200, 300)), ((5, 5), 9, (9, 9)), ((10_000, 3), 100, (100, 1))],
)
def test_fit_longer_side(size: tuple[int, int], longer: int, expected: tuple[int, int]) -> None:
    assert fit_longer_side(*size, longer) == expected
