"""Boxes and scribbles on pictures whose objects are known."""

from __future__ import annotations

import numpy as np
import pytest
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.grabcut import UNMARKED, boxes_to_labels, check_boxes, scribbles_to_labels
from intarsia_server.engine.request import Box, Boxes

HEIGHT, WIDTH = 96, 128


def never() -> bool:
    return False


def ellipse(x: float, y: float, across: float, down: float, scale: int = 1) -> np.ndarray:
    rows, columns = np.mgrid[: HEIGHT * scale, : WIDTH * scale] / scale
    return ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 < 1


def scene(scale: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy green ground with a brown and a blue ellipse; the picture, and where these are."""
    rng = np.random.default_rng(0)
    brown, blue = ellipse(45, 48, 25, 28, scale), ellipse(104, 48, 14, 20, scale)
    picture = np.zeros((*brown.shape, 3))
    picture[:] = (60, 130, 70)
    picture[brown], picture[blue] = (190, 90, 60), (60, 70, 200)
    picture += rng.normal(0, 14, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), brown, blue


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def around(mask: np.ndarray, label: int, margin: int = 4) -> Box:
    rows, columns = np.nonzero(mask)
    return Box(
        label,
        max(0, int(columns.min()) - margin),
        max(0, int(rows.min()) - margin),
        min(mask.shape[1], int(columns.max()) + 1 + margin),
        min(mask.shape[0], int(rows.max()) + 1 + margin),
    )


@pytest.mark.parametrize("scale", [1, 7])
def test_objects_in_boxes(scale: int) -> None:
    picture, brown, blue = scene(scale)
    source = Boxes((around(brown, 3, 4 * scale), around(blue, 7, 4 * scale)))
    check_boxes(source, picture.shape[1], picture.shape[0])
    labels = boxes_to_labels(picture, source, cancelled=never)
    assert labels.dtype == np.int32
    assert set(np.unique(labels).tolist()) == {0, 3, 7}
    assert iou(labels == 3, brown) > 0.9
    assert iou(labels == 7, blue) > 0.9


def test_boxes_of_one_label_are_one_segment() -> None:
    picture, brown, blue = scene()
    labels = boxes_to_labels(picture, Boxes((around(brown, 1), around(blue, 1))), cancelled=never)
    assert iou(labels == 1, brown | blue) > 0.9


def test_nothing_is_found_outside_a_box() -> None:
    """The other ellipse of the same colour is no part of this box's object."""
    picture, brown, blue = scene()
    picture[blue] = (190, 90, 60)
    box = around(brown, 1)
    labels = boxes_to_labels(picture, Boxes((box,)), cancelled=never)
    outside = np.ones_like(brown)
    outside[box.top : box.bottom, box.left : box.right] = False
    assert (labels[outside] == 0).all()
    assert iou(labels == 1, brown) > 0.9


def test_the_later_box_has_what_both_find() -> None:
    picture, brown, blue = scene()
    both = Box(1, 15, 15, 122, 82)
    labels = boxes_to_labels(picture, Boxes((both, around(blue, 2))), cancelled=never)
    assert iou(labels == 2, blue) > 0.9
    assert iou(labels == 1, brown) > 0.9


def test_a_box_that_later_ones_leave_nothing_is_refused() -> None:
    picture, brown, _ = scene()
    with pytest.raises(InvalidInputError, match="later boxes' objects cover all of its own") as caught:
        boxes_to_labels(picture, Boxes((around(brown, 1), around(brown, 2))), cancelled=never)
    assert caught.value.field == "boxes.boxes[0]"


def test_a_flat_picture_has_no_object() -> None:
    flat = np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)
    box = Box(1, 20, 20, 60, 60)
    with pytest.raises(InvalidInputError, match=r"boxes\.boxes\[0\]: no object was found in it"):
        boxes_to_labels(flat, Boxes((box,)), cancelled=never)


@pytest.mark.parametrize(
    ("box", "field"),
    [
        (Box(1, 0, 0, 129, 40), "boxes.boxes[1].right"),
        (Box(1, 0, 0, 40, 97), "boxes.boxes[1].bottom"),
        (Box(1, 40, 0, 40, 40), "boxes.boxes[1].right"),
        (Box(1, 50, 0, 40, 40), "boxes.boxes[1].right"),
        (Box(1, 0, 30, 40, 37), "boxes.boxes[1].bottom"),
        (Box(1, 0, 0, 128, 96), "boxes.boxes[1]"),
        (Box(1, 0, 0, 127, 96), "boxes.boxes[1]"),
    ],
)
def test_impossible_boxes_are_refused(box: Box, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_boxes(Boxes((Box(1, 10, 10, 40, 40), box)), WIDTH, HEIGHT)
    assert caught.value.field == field


@pytest.mark.parametrize("box", [Box(1, 0, 0, 126, 96), Box(1, 0, 0, 8, 8), Box(1, 0, 40, 128, 48)])
def test_boxes_at_the_limits_run(box: Box) -> None:
    picture = scene()[0]
    object_ = np.zeros((HEIGHT, WIDTH), dtype=bool)
    object_[box.top + 2 : box.bottom - 2, box.left + 2 : box.right - 2] = True
    picture[object_] = (230, 20, 210)
    check_boxes(Boxes((box,)), WIDTH, HEIGHT)
    labels = boxes_to_labels(picture, Boxes((box,)), cancelled=never)
    assert iou(labels == 1, object_) > 0.9


def marks(scale: int = 1) -> np.ndarray:
    """A short line on each ellipse and two long ones on the ground."""
    found = np.full((HEIGHT * scale, WIDTH * scale), UNMARKED, dtype=np.int32)
    found[4 * scale : 7 * scale, 5 * scale : 123 * scale] = 0
    found[88 * scale : 91 * scale, 5 * scale : 123 * scale] = 0
    found[47 * scale : 50 * scale, 38 * scale : 52 * scale] = 5
    found[40 * scale : 56 * scale, 103 * scale : 106 * scale] = 0xFF0000
    return found


@pytest.mark.parametrize("scale", [1, 7])
def test_scribbles_spread_to_their_objects(scale: int) -> None:
    picture, brown, blue = scene(scale)
    labels = scribbles_to_labels(picture, marks(scale), cancelled=never)
    assert labels.dtype == np.int32
    assert set(np.unique(labels).tolist()) == {0, 5, 0xFF0000}
    assert iou(labels == 5, brown) > 0.9
    assert iou(labels == 0xFF0000, blue) > 0.9


def test_marked_pixels_keep_their_label() -> None:
    picture, *_ = scene()
    stubborn = marks()
    stubborn[70:72, 60:70] = 5
    labels = scribbles_to_labels(picture, stubborn, cancelled=never)
    assert np.array_equal(labels[stubborn != UNMARKED], stubborn[stubborn != UNMARKED])


def test_flat_pictures_get_a_label_everywhere() -> None:
    flat = np.full((HEIGHT, WIDTH, 3), 120, dtype=np.uint8)
    labels = scribbles_to_labels(flat, marks(), cancelled=never)
    assert set(np.unique(labels).tolist()) <= {0, 5, 0xFF0000}


def test_a_label_of_one_pixel_is_not_lost() -> None:
    picture, *_ = scene(7)
    found = marks(7)
    found[300, 300] = 9
    assert (scribbles_to_labels(picture, found, cancelled=never) == 9).any()


def test_glints_are_no_holes() -> None:
    picture, brown, _ = scene()
    picture[47:49, 30:33] = picture[60:62, 50:52] = picture[30:32, 45] = (60, 130, 70)
    boxed = boxes_to_labels(picture, Boxes((around(brown, 5),)), cancelled=never)
    scribbled = scribbles_to_labels(picture, marks(), cancelled=never)
    inner = ellipse(45, 48, 22, 25)
    assert (boxed[inner] == 5).all()
    assert (scribbled[inner] == 5).all()


def test_same_request_same_bits() -> None:
    picture, brown, blue = scene()
    source = Boxes((around(brown, 1), around(blue, 2)))
    first = boxes_to_labels(picture, source, cancelled=never), scribbles_to_labels(picture, marks(), cancelled=never)
    np.random.default_rng().normal(size=10)
    scribbles_to_labels(picture[::-1].copy(), marks(), cancelled=never)
    again = boxes_to_labels(picture, source, cancelled=never), scribbles_to_labels(picture, marks(), cancelled=never)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


def test_cancelled_between_boxes_and_between_labels() -> None:
    picture, brown, _ = scene()
    with pytest.raises(CancelledError):
        boxes_to_labels(picture, Boxes((around(brown, 1),)), cancelled=lambda: True)
    with pytest.raises(CancelledError):
        scribbles_to_labels(picture, marks(), cancelled=lambda: True)


def test_a_box_in_a_picture_that_shrinks_to_a_line() -> None:
    """GrabCut sees 600 x 2 pixels of it; the box's first row, rounded inwards, would lie below both."""
    picture = np.full((32, 8000, 3), (60, 130, 70), dtype=np.uint8)
    picture[20:28, 1000:6000] = (190, 90, 60)
    labels = boxes_to_labels(picture, Boxes((Box(1, 100, 20, 7000, 28),)), cancelled=never)
    assert (labels == 1).any()


def test_scribbles_can_be_cancelled_at_any_label() -> None:
    picture, brown, _ = scene(7)
    marks = np.full(brown.shape, UNMARKED, dtype=np.int32)
    marks[300:310, 300:310], marks[330:340, 720:730], marks[:10] = 1, 2, 0
    polls: list[int] = []
    scribbles_to_labels(picture, marks, cancelled=lambda: bool(polls.append(1)))
    assert len(polls) == 4 * 3  # each label is shrunk, cut out, freed of specks and enlarged
    for earlier in (0, 4, 7, 11):
        answers = iter([False] * earlier)
        with pytest.raises(CancelledError):
            scribbles_to_labels(picture, marks, cancelled=lambda answers=answers: next(answers, True))
