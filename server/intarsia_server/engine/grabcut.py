"""Boxes and scribbles to label maps, by OpenCV's GrabCut (Rother, Kolmogorov, Blake 2004).

No torch here, but seconds of work: the front process checks the pictures and the numbers, a worker runs this.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia_server.engine.cancel import Cancelled, never, poll
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import Pixels, fit_longer_side
from intarsia_server.engine.label_repair import fill_nearest
from intarsia_server.engine.request import Box, Boxes
from intarsia_server.engine.segmentation import LabelMap, resize_labels

WORKING_SIDE = 600
"""Longer side in pixels of what GrabCut sees: its time grows with the pixels, its borders hardly gain."""

ITERATIONS = 5

MARGIN = 0.5
"""What GrabCut sees beyond a box to each side, to learn the background; in the box's own width or height."""

MIN_BOX_SIDE = 8
"""Pixels; GrabCut fits five colours to what lies in a box."""

MIN_OUTSIDE = 0.01
"""Share of the picture that a box has to leave outside itself."""

SPECK = 0.001
"""Share of what GrabCut sees below which an island is noise, such as a glint."""

UNMARKED = -1

Mask = NDArray[np.bool_]


def check_boxes(source: Boxes, width: int, height: int) -> None:
    """Checks every box against a content image of that size.

    Raises:
        InvalidInputError: naming the box's side.
    """
    for index, box in enumerate(source.boxes):
        field = f"boxes.boxes[{index}]"
        for name, low, high, limit in (
            ("right", box.left, box.right, width),
            ("bottom", box.top, box.bottom, height),
        ):
            if high > limit:
                raise InvalidInputError(f"{field}.{name}", f"is {high}; the content image is {width}x{height} pixels")
            if high - low < MIN_BOX_SIDE:
                raise InvalidInputError(f"{field}.{name}", f"leaves {high - low} pixels; a box needs {MIN_BOX_SIDE}")
        share = (box.right - box.left) * (box.bottom - box.top) / (width * height)
        if share > 1 - MIN_OUTSIDE:
            raise InvalidInputError(
                field, f"leaves less than {MIN_OUTSIDE:.0%} of the picture outside, where the background is learnt"
            )


def boxes_to_labels(content: Pixels, source: Boxes, *, cancelled: Cancelled) -> LabelMap:
    """Finds the object in each box; a pixel that two boxes' objects share belongs to the later box.

    Args:
        content: RGB [H, W, 3].
        source: checked by `check_boxes`.
        cancelled: polled before each box.

    Returns:
        [H, W]: labels of the boxes, 0 elsewhere.

    Raises:
        InvalidInputError: no object in a box, or none left under later ones.
        CancelledError: `cancelled` said so.
    """
    height, width = content.shape[:2]
    winner = np.full((height, width), -1, dtype=np.int32)
    inside = np.zeros((height, width), dtype=bool)
    for box in source.boxes:
        inside[box.top : box.bottom, box.left : box.right] = True
    for index, box in enumerate(source.boxes):
        poll(cancelled)
        view = _surroundings(box, width, height)
        found = _object_in_box(content[view], inside[view], _within(box, view))
        if not found.any():
            raise InvalidInputError(f"boxes.boxes[{index}]", "no object was found in it")
        winner[view][found] = index
    for index in range(len(source.boxes)):
        if not (winner == index).any():
            raise InvalidInputError(f"boxes.boxes[{index}]", "later boxes' objects cover all of its own")
    labels: LabelMap = np.array([*(box.label for box in source.boxes), 0], dtype=np.int32)[winner]
    return labels


def scribbles_to_labels(content: Pixels, marks: LabelMap, *, cancelled: Cancelled) -> LabelMap:
    """Spreads scribbles over the picture: GrabCut cuts each label out against all others together.

    A pixel that several labels take, or none, goes to the one whose colours explain it best against the others'.

    Args:
        content: RGB [H, W, 3].
        marks: [H, W], labels or `UNMARKED`; at least two labels.
        cancelled: polled before whatever is done for each label.

    Returns:
        [H, W], a label everywhere; marked pixels keep theirs.

    Raises:
        CancelledError: `cancelled` said so.
    """
    height, width = marks.shape
    labels = np.unique(marks[marks != UNMARKED])
    small = _shrink(content)
    seeds = _shrink_marks(marks, labels, small.shape[1], small.shape[0], cancelled)
    start = fill_nearest(seeds, seeds == UNMARKED)
    best = np.full(seeds.shape, -np.inf)
    winner = np.zeros(seeds.shape, dtype=np.int32)
    for number in range(len(labels)):
        poll(cancelled)
        mask = np.where(start == number, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        mask[seeds >= 0] = cv2.GC_BGD
        mask[seeds == number] = cv2.GC_FGD
        taken, likelihood = _grabcut(small, mask)
        # Whatever takes a pixel comes before whatever does not; the ratio itself lies far within a million.
        score = likelihood + np.where(taken, 1e6, 0)
        winner[score > best] = number
        best = np.maximum(best, score)
    winner = _without_specks(winner, len(labels), seeds != UNMARKED, cancelled)
    found: LabelMap = labels[_enlarged(winner, len(labels), width, height, cancelled)].astype(np.int32)
    return np.where(marks != UNMARKED, marks, found)


View = tuple[slice, slice]


def _surroundings(box: Box, width: int, height: int) -> View:
    """Rows and columns of a box with its margin, within the picture."""
    across, down = round(MARGIN * (box.right - box.left)), round(MARGIN * (box.bottom - box.top))
    rows = slice(max(0, box.top - down), min(height, box.bottom + down))
    columns = slice(max(0, box.left - across), min(width, box.right + across))
    return rows, columns


def _within(box: Box, view: View) -> View:
    """The box in a view's own coordinates."""
    rows, columns = view
    return (
        slice(box.top - rows.start, box.bottom - rows.start),
        slice(box.left - columns.start, box.right - columns.start),
    )


def _object_in_box(picture: Pixels, inside_any: Mask, box: View) -> Mask:
    """The object's pixels, all of them in the box.

    What lies in other boxes is background at first, but free to look like the object: it may be one of its kind.
    """
    small = _shrink(picture)
    height, width = small.shape[:2]
    scale_down, scale_across = height / picture.shape[0], width / picture.shape[1]
    own = _shrink_slice(box[0], scale_down, height), _shrink_slice(box[1], scale_across, width)
    others = cv2.resize(inside_any.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    mask = np.where(others > 0, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    mask[own] = cv2.GC_PR_FGD
    found, _ = _grabcut(small, mask)
    labels = _without_specks(found.astype(np.int32), 2, np.zeros_like(found))
    result = np.zeros(picture.shape[:2], dtype=bool)
    result[box] = _enlarged(labels, 2, picture.shape[1], picture.shape[0])[box] > 0
    return result


def _shrink_slice(pixels: slice, scale: float, length: int) -> slice:
    """Rounded inwards, so that the background keeps what is its own; at least one pixel of the `length` there are."""
    start = min(int(np.ceil(pixels.start * scale)), length - 1)
    return slice(start, max(start + 1, int(pixels.stop * scale)))


def _grabcut(picture: Pixels, mask: NDArray[np.uint8]) -> tuple[Mask, NDArray[np.float64]]:
    """Runs GrabCut from a mask of its four values.

    Returns:
        The foreground, and by how much its colours explain each pixel better than the background's (log ratio), [H, W].
    """
    taken = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    if not taken.any() or taken.all():
        # Lost when the picture was made smaller, or all there is; GrabCut needs something of both to learn from.
        return taken, np.zeros(mask.shape)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # it clusters colours from random centres; the same request has to give the same labels
    bgr = np.ascontiguousarray(picture[..., ::-1])
    cv2.grabCut(bgr, mask, None, background, foreground, ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    taken = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
    return taken, _log_likelihood(bgr, foreground) - _log_likelihood(bgr, background)


def _without_specks(labels: LabelMap, count: int, marked: Mask, cancelled: Cancelled = never) -> LabelMap:
    """Indices below `count` [H, W] without their tiny islands, which go to what lies around them.

    A label's largest island stays, and so does one with a marked pixel.
    """
    specks = np.zeros(labels.shape, dtype=bool)
    for index in range(count):
        poll(cancelled)
        own = labels == index
        _, islands, statistics, _ = cv2.connectedComponentsWithStats(own.astype(np.uint8), connectivity=8)
        areas = statistics[:, cv2.CC_STAT_AREA]
        areas[0] = 0  # what is not of this label
        tiny = areas < SPECK * labels.size
        tiny[[0, int(areas.argmax()), *np.unique(islands[marked & own])]] = False
        specks |= tiny[islands]
    return fill_nearest(labels, specks)


def _log_likelihood(bgr: Pixels, model: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each pixel [H, W] under one of GrabCut's mixtures: five weights, five means, five covariances in a row."""
    weights, means, covariances = model[0, :5], model[0, 5:20].reshape(5, 3), model[0, 20:].reshape(5, 3, 3)
    total = np.full(bgr.shape[:2], np.finfo(float).tiny)
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        if weight > 0:
            regular = covariance + np.eye(3) * 0.01  # as OpenCV does for a flat cluster
            difference = bgr - mean
            distance = np.einsum("hwi,ij,hwj->hw", difference, np.linalg.inv(regular), difference)
            total += weight / np.sqrt(np.linalg.det(regular)) * np.exp(-0.5 * distance)
    likelihood: NDArray[np.float64] = np.log(total)
    return likelihood


def _shrink(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    if max(width, height) <= WORKING_SIDE:
        return picture
    size = fit_longer_side(width, height, WORKING_SIDE)
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _shrink_marks(
    marks: LabelMap, labels: NDArray[np.int32], width: int, height: int, cancelled: Cancelled
) -> LabelMap:
    """Indices into `labels`, or `UNMARKED`; a pixel takes the label with most marks in it, so that no line is lost."""
    best = np.zeros((height, width), dtype=np.float32)
    seeds: LabelMap = np.full((height, width), UNMARKED, dtype=np.int32)
    for number, label in enumerate(labels):
        poll(cancelled)
        coverage = cv2.resize((marks == label).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        seeds[coverage > best] = number
        best = np.maximum(best, coverage)
    return seeds


def _enlarged(labels: LabelMap, count: int, width: int, height: int, cancelled: Cancelled = never) -> LabelMap:
    """At the content image's size, with smooth borders."""
    return resize_labels(labels, count, width, height, resampling=Image.Resampling.BILINEAR, cancelled=cancelled)
