"""Scribble pictures as they are read, and label maps as they are answered with."""

from __future__ import annotations

import io

import numpy as np
import pytest
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.grabcut import UNMARKED
from intarsia_server.engine.label_answer import MAX_FOUND, answer_segmentation, check_segmentation, encode_labels
from intarsia_server.engine.label_finder import Tools, check_labels
from intarsia_server.engine.request import (
    Box,
    Boxes,
    LabelMapSource,
    Scribbles,
    Segmentation,
    SegmentationRequest,
    SoftMask,
    SoftMasks,
)
from intarsia_server.engine.segmentation import decode_label_map, read_marks
from pictures import LIMIT, encoded
from PIL import Image

CONTENT = np.zeros((40, 50, 3), dtype=np.uint8)


def marks(data: bytes) -> np.ndarray:
    return read_marks(data, "scribbles.image.data", max_pixels=LIMIT)


def test_255_is_unmarked_in_grey_and_palette_pictures() -> None:
    values = np.array([[0, 7, 255], [255, 254, 1]], dtype=np.uint8)
    expected = np.where(values == 255, UNMARKED, values.astype(int))
    grey = Image.fromarray(values)
    palette = grey.copy()
    palette.putpalette([9, 9, 9] * 256)
    for image in (grey, palette, grey.convert("RGB")):
        assert np.array_equal(marks(encoded(image)), expected)


def test_what_is_not_opaque_is_unmarked() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 254], [9, 9, 9, 0], [255, 255, 255, 255]]], dtype=np.uint8)
    assert marks(encoded(Image.fromarray(rgba))).tolist() == [[0xFF0000, UNMARKED, UNMARKED, 0xFFFFFF]]
    palette = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    palette.putpalette([9, 9, 9] * 256)
    assert marks(encoded(palette, transparency=1)).tolist() == [[0, UNMARKED, 2]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (77, 0, 9)])
def test_255_is_a_label_on_a_transparent_layer(mode: str, hidden: tuple[int, int, int]) -> None:
    """Whatever colour the pixels have that nobody sees."""
    pixels = np.full((2, 3, 4), (*hidden, 0), dtype=np.uint8)
    pixels[0, 0], pixels[1, 1] = (0, 0, 0, 255), (255, 255, 255, 255)
    found = marks(encoded(Image.fromarray(pixels).convert(mode)))
    assert found.tolist() == [[0, UNMARKED, UNMARKED], [UNMARKED, 255, UNMARKED]]


def test_255_is_a_label_beside_transparent_palette_entries() -> None:
    palette = Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8))
    palette.putpalette([9, 9, 9] * 256)
    assert marks(encoded(palette, transparency=1)).tolist() == [[0, UNMARKED, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_the_file_calls_transparent_is_unmarked(mode: str) -> None:
    colours = np.array([[[200, 0, 0], [9, 9, 9], [9, 9, 9], [0, 0, 200]]], dtype=np.uint8)
    image = Image.fromarray(colours).convert(mode)
    found = marks(encoded(image, transparency=(9, 9, 9) if mode == "RGB" else 9))
    assert (found == UNMARKED).tolist() == [[False, True, True, False]]


def spotted(background: int, *values: int) -> bytes:
    image = Image.new("L", (50, 40), background)
    for index, value in enumerate(values):
        image.paste(value, (10 * index, 5, 10 * index + 4, 9))
    return encoded(image)


def test_the_labels_that_scribbles_mark() -> None:
    assert check_labels(Scribbles(spotted(255, 0, 3, 9)), CONTENT, max_pixels=LIMIT) == {0, 3, 9}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (spotted(255), "marks 0 labels"),
        (spotted(255, 4), "marks 1 labels"),
        (encoded(Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) % 300)), "marks 299 labels"),
        (spotted(0, 4, 5), "marks every pixel"),
        (encoded(Image.new("L", (47, 40))), "is 47x40 pixels, the content image 50x40"),
        (encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))), "colours"),
        (b"no picture", "cannot be decoded"),
    ],
)
def test_scribbles_that_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_labels(Scribbles(data), CONTENT, max_pixels=LIMIT)
    assert caught.value.field == "scribbles.image.data"
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("labels", "mode"), [((0, 1, 255), "P"), ((0, 256, 65535), "I;16"), ((0, 65536, 0xFFFFFF), "RGB")]
)
def test_answers_are_read_as_the_labels_they_were_made_of(labels: tuple[int, ...], mode: str) -> None:
    values = np.array(labels, dtype=np.int32)[np.arange(12).reshape(3, 4) % 3]
    data = encode_labels(values)
    assert np.array_equal(decode_label_map(data, "label_map.data", max_pixels=LIMIT), values)
    assert Image.open(io.BytesIO(data)).mode == mode


def test_labels_that_no_png_holds_are_refused() -> None:
    wide = encoded(Image.fromarray(np.full((40, 50), 2**24, dtype=np.int32)), "TIFF")
    request = SegmentationRequest(content=encoded(Image.fromarray(CONTENT)), segmentation=LabelMapSource(wide))
    with pytest.raises(InvalidInputError, match="has labels above 16777215") as caught:
        check_segmentation(request, max_pixels=LIMIT)
    assert caught.value.field == "label_map.data"


def segmentation_request(segmentation: Segmentation) -> SegmentationRequest:
    return SegmentationRequest(content=encoded(Image.fromarray(CONTENT)), segmentation=segmentation)


def column_masks(*labels: int) -> SoftMasks:
    """Each label has a column of its own; the rest is label 0's."""
    columns = np.zeros((len(labels), 40, 50), dtype=np.uint8)
    columns[range(len(labels)), :, range(len(labels))] = 255
    return SoftMasks(
        tuple(SoftMask(label, encoded(Image.fromarray(column))) for label, column in zip(labels, columns, strict=True))
    )


@pytest.mark.parametrize(
    ("segmentation", "field", "reason"),
    [
        (column_masks(0xFFFFFF), "soft_masks.masks", "all grey"),
        (Boxes((Box(0x808080, 5, 5, 20, 20), Box(0xFFFFFF, 22, 5, 40, 20))), "boxes.boxes", "all grey"),
        (
            Boxes(tuple(Box(70_000 + index, 5, 5, 20, 20) for index in range(64))),
            "boxes.boxes",
            "has 65 labels, with one above 65535 at most 64",
        ),
        (
            LabelMapSource(encoded(Image.fromarray(np.arange(2000, dtype=np.int32).reshape(40, 50) + 70_000), "TIFF")),
            "label_map.data",
            "has 2000 labels, with one above 65535 at most 64",
        ),
    ],
)
def test_labels_that_would_not_read_back_are_refused_in_the_check(
    segmentation: Segmentation, field: str, reason: str
) -> None:
    with pytest.raises(InvalidInputError, match=reason) as caught:
        check_segmentation(segmentation_request(segmentation), max_pixels=LIMIT)
    assert caught.value.field == field


def test_labels_that_read_back_are_answered_with() -> None:
    request = segmentation_request(column_masks(*range(1, 45), 70_000))
    assert check_segmentation(request, max_pixels=LIMIT) == (50, 40)
    found = answer_segmentation(request, max_pixels=LIMIT, tools=Tools())
    labels = decode_label_map(found.label_map, "label_map.data", max_pixels=LIMIT)
    assert np.unique(labels).tolist() == [*range(45), 70_000] == [label.label for label in found.labels]


def test_a_flood_of_labels_is_refused() -> None:
    many = np.arange(80 * 100, dtype=np.uint16).reshape(80, 100) % (MAX_FOUND + 1)
    request = SegmentationRequest(
        content=encoded(Image.new("RGB", (100, 80))), segmentation=LabelMapSource(encoded(Image.fromarray(many)))
    )
    with pytest.raises(InvalidInputError, match="has 4097 labels, at most 4096"):
        check_segmentation(request, max_pixels=LIMIT)
    with pytest.raises(InvalidInputError, match="has 4097 labels, at most 4096"):
        answer_segmentation(request, max_pixels=LIMIT, tools=Tools())


def test_a_check_can_be_cancelled() -> None:
    with pytest.raises(CancelledError):
        check_segmentation(segmentation_request(column_masks(1)), max_pixels=LIMIT, tools=Tools(cancelled=lambda: True))
