"""Scribble pictures as they are read, and label maps as they are answered with."""

from __future__ import annotations

import io

import numpy as np
import pytest
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.grabcut import UNMARKED
from intarsia_server.engine.label_answer import check_segmentation, encode_labels
from intarsia_server.engine.label_finder import check_labels
from intarsia_server.engine.request import LabelMapSource, Scribbles, SegmentationRequest
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
