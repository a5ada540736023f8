"""Label maps of every kind, and the segments made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.request import Segment
from intarsia_server.engine.segmentation import assign_segments, decode_label_map, resize_labels
from pictures import LIMIT, encoded
from PIL import Image

VALUES = np.array([[0, 1, 2], [7, 200, 255]], dtype=np.uint8)


def decode(image: Image.Image, file_format: str = "PNG") -> np.ndarray:
    return decode_label_map(encoded(image, file_format), "label_map.data", max_pixels=LIMIT)


def refused(image: Image.Image, file_format: str = "PNG") -> str:
    with pytest.raises(InvalidInputError) as caught:
        decode(image, file_format)
    assert caught.value.field == "label_map.data"
    return caught.value.reason


def test_grey_values_are_labels() -> None:
    found = decode(Image.fromarray(VALUES))
    assert found.dtype == np.int32
    assert np.array_equal(found, VALUES)


def test_palette_indices_are_labels_whatever_their_colours() -> None:
    image = Image.fromarray(VALUES)
    image.putpalette([9, 9, 9] * 256)
    assert image.mode == "P"
    assert np.array_equal(decode(image), VALUES)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_indices_of_few_bits(bits: int) -> None:
    values = (np.arange(12, dtype=np.uint8) % 2**bits).reshape(3, 4)
    image = Image.fromarray(values)
    image.putpalette([200, 0, 0, 0, 200, 0] * 8)
    data = encoded(image, bits=bits)
    assert np.array_equal(decode_label_map(data, "label_map.data", max_pixels=LIMIT), values)


def test_transparent_palette_entries_are_labels_too() -> None:
    image = Image.fromarray(VALUES)
    image.putpalette([9, 9, 9] * 256)
    data = encoded(image, transparency=0)
    assert np.array_equal(decode_label_map(data, "label_map.data", max_pixels=LIMIT), VALUES)


def test_one_bit() -> None:
    bits = np.array([[True, False], [False, True]])
    assert np.array_equal(decode(Image.fromarray(bits)), bits)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bit_values_are_labels(file_format: str) -> None:
    values = np.array([[0, 256, 257, 65535]], dtype=np.uint16)
    assert np.array_equal(decode(Image.fromarray(values), file_format), values)


def test_big_endian_16_bit_values() -> None:
    values = np.array([[0, 256, 257, 65535]])
    assert np.array_equal(decode(Image.fromarray(values.astype(">u2")), "TIFF"), values)


def test_32_bit_values_are_labels() -> None:
    values = np.array([[0, 70_000, 2**31 - 1]], dtype=np.int32)
    assert np.array_equal(decode(Image.fromarray(values), "TIFF"), values)


def test_negative_values_are_refused() -> None:
    assert "negative" in refused(Image.fromarray(np.array([[0, -1]], dtype=np.int32)), "TIFF")


def test_float_values_are_refused() -> None:
    """A label is a whole number; converting 300.5 to anything would guess."""
    refused(Image.fromarray(np.array([[0.25, 300.5]], dtype=np.float32)), "TIFF")


def test_colours_are_labels() -> None:
    colours = np.array([[[0, 0, 0], [255, 0, 0]], [[0, 128, 0], [1, 2, 3]]], dtype=np.uint8)
    assert decode(Image.fromarray(colours)).tolist() == [[0, 0xFF0000], [0x008000, 0x010203]]


def test_opaque_alpha_is_no_matter() -> None:
    rgba = np.array([[[255, 0, 0, 255], [1, 2, 3, 255]]], dtype=np.uint8)
    assert decode(Image.fromarray(rgba)).tolist() == [[0xFF0000, 0x010203]]


def test_grey_saved_as_rgb_gives_grey_values() -> None:
    assert np.array_equal(decode(Image.fromarray(VALUES).convert("RGB")), VALUES)
    assert np.array_equal(decode(Image.fromarray(VALUES).convert("LA")), VALUES)


def colour_coded(count: int) -> Image.Image:
    index = np.arange(count, dtype=np.uint8)
    return Image.fromarray(np.stack([index, 255 - index, index // 2], axis=1)[None])


def test_64_colours_are_allowed() -> None:
    assert len(np.unique(decode(colour_coded(64)))) == 64


def test_more_colours_are_refused() -> None:
    reason = refused(colour_coded(65))
    assert "65 colours" in reason
    assert "JPEG" in reason


@pytest.mark.parametrize("alpha", [0, 128, 254])
def test_translucent_is_refused(alpha: int) -> None:
    rgba = np.full((2, 2, 4), 255, dtype=np.uint8)
    rgba[1, 1, 3] = alpha
    assert "translucent" in refused(Image.fromarray(rgba))


def test_is_turned_upright_like_the_content() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(np.ascontiguousarray(np.rot90(VALUES))), exif=exif)
    assert np.array_equal(decode_label_map(data, "label_map.data", max_pixels=LIMIT), VALUES)


def test_garbage_and_bombs_are_refused() -> None:
    for data in (b"", b"garbage", encoded(Image.new("L", (20, 20)))):
        with pytest.raises(InvalidInputError, match=r"^label_map\.data: "):
            decode_label_map(data, "label_map.data", max_pixels=399)


def segment(*labels: int) -> Segment:
    return Segment(labels=labels, style=None)


def assign(*segments: Segment, labels: np.ndarray | None = None) -> np.ndarray:
    values = VALUES.astype(np.int32) if labels is None else labels
    return assign_segments(values, segments, label_field="label_map.data", segment_field="segments")


def test_labels_become_segment_indices() -> None:
    found = assign(segment(255, 0), segment(7), segment(1, 2, 200))
    assert found.dtype == np.int32
    assert found.tolist() == [[0, 2, 2], [1, 2, 0]]


def test_colour_labels_become_segment_indices() -> None:
    assert assign(segment(0x010203), segment(0), labels=np.array([[0, 0x010203]], dtype=np.int32)).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("segments", "field", "message"),
    [
        ((segment(0, 1), segment(2, 7)), "label_map.data", "labels without a style: 200, 255"),
        (
            (segment(0, 1, 2), segment(7, 200, 255, 1)),
            "segments[1].labels",
            r"label 1 already belongs to segments\[0\]",
        ),
        ((segment(0, 1, 2, 7, 200, 255, 0),), "segments[0].labels", "label 0 already belongs"),
        ((segment(0, 1, 2), segment(7, 200, 255), segment(9)), "segments[2].labels", "label 9 has no pixel"),
        ((segment(0, 1, 2, 9), segment(7, 200, 255)), "segments[0].labels", "label 9 has no pixel"),
    ],
)
def test_wrong_segments_are_refused(segments: tuple[Segment, ...], field: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        assign(*segments)
    assert caught.value.field == field


def test_missing_colour_labels_are_named_as_colours_and_not_all() -> None:
    labels = np.arange(0xFF0000, 0xFF0000 + 20, dtype=np.int32)[None]
    with pytest.raises(InvalidInputError, match=r"#ff0000.*#ff0007.*\.\.\.") as caught:
        assign(segment(0), labels=labels)
    assert "#ff0008" not in caught.value.reason


def test_resizing_gives_the_label_that_covers_most() -> None:
    labels = np.random.default_rng(0).integers(4, size=(24, 36)).astype(np.int32)
    found = resize_labels(labels, 4, 12, 8)
    for y in range(8):
        for x in range(12):
            counts = np.bincount(labels[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].ravel(), minlength=4)
            assert counts[found[y, x]] == counts.max()


@pytest.mark.parametrize("size", [(37, 23), (50, 91), (8, 8), (200, 130)])
def test_resizing_introduces_no_label(size: tuple[int, int]) -> None:
    """Between labels 0 and 3 a blend would give 1 or 2."""
    labels = np.where(np.random.default_rng(1).integers(2, size=(45, 64)) > 0, 3, 0).astype(np.int32)
    found = resize_labels(labels, 4, *size)
    assert found.shape == size[::-1]
    assert found.dtype == np.int32
    assert set(np.unique(found).tolist()) <= {0, 3}


def test_resizing_to_the_same_size_changes_nothing() -> None:
    labels = np.random.default_rng(2).integers(4, size=(9, 11)).astype(np.int32)
    assert np.array_equal(resize_labels(labels, 4, 11, 9), labels)


def test_resizing_up_keeps_every_block() -> None:
    labels = np.array([[0, 1], [2, 0]], dtype=np.int32)
    assert np.array_equal(resize_labels(labels, 3, 6, 4), np.kron(labels, np.ones((2, 3), dtype=int)))


def test_resizing_can_be_cancelled() -> None:
    with pytest.raises(CancelledError):
        resize_labels(np.zeros((4, 4), dtype=np.int32), 1, 2, 2, cancelled=lambda: True)


def test_pixels_without_a_label_are_no_label_without_a_style() -> None:
    with pytest.raises(InvalidInputError, match=r"labels without a style: 255$"):
        assign(segment(0), labels=np.array([[-1, 0, 255]], dtype=np.int32))
    with pytest.raises(InvalidInputError, match="translucent"):
        assign(segment(0), labels=np.array([[-1, 0]], dtype=np.int32))


def test_no_other_thread_waits_while_labels_are_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy's unique does not let others run while it hashes or makes an inverse: the server's event loop is one."""
    sorts = np.unique

    def unique(values: Any, **options: Any) -> Any:
        assert options == {"return_counts": True}
        return sorts(values, **options)

    monkeypatch.setattr(np, "unique", unique)
    labels = np.array([[7, 7, 300], [300, 7, 0]], dtype=np.int32)
    segments = [Segment(labels=(0, 300), style=b"a"), Segment(labels=(7,), style=None)]
    indices = assign_segments(labels, segments, label_field="label_map.data", segment_field="segments")
    assert indices.tolist() == [[1, 1, 0], [0, 1, 0]]
