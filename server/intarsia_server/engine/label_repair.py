"""Label maps that are nearly right: what can be mended without guessing, and the warnings that say so.

Nothing here touches a label that a segment claims. No torch here: the front process repairs, to know what to refuse.
"""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np
from numpy.typing import NDArray

from intarsia_server.engine.cancel import Cancelled, never, poll
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.segmentation import (
    MAX_COLOURS,
    LabelMap,
    LabelPicture,
    Scale,
    check_colours,
    too_many_colours,
    translucent,
)

SIZE_TOLERANCE = 2
"""Pixels by which a side may differ from the content image's: rounding when a picture was made smaller."""

NOISE = 48.0
"""Distance in RGB that JPEG puts between a few pixels and the colour they had."""

DRIFT = {Scale.COLOUR: 16.0, Scale.GREY: 4.0}
"""Distance by which JPEG moves a whole flat area; more would be another colour, and any in a lossless file is."""

APART = {Scale.COLOUR: 48.0, Scale.GREY: 32.0}
"""Distance between claimed colours below which one of them cannot be told from the noise of another."""

FEW = 0.005
"""Share of the picture up to which a stray colour counts as noise and stray pixels count as slivers."""

MANY = 0.1
"""Share of the picture that stray pixels may have when they lie along borders alone."""

THICK = 4.0
"""Half the width in pixels up to which a strip lies along a border; JPEG's bleeding and VOC's void are no wider."""


MOST_VALUES = 2**17
"""Different values above which nothing is a label map: JPEG of quality 50 makes 23,000 colours of 3, 90,000 of 64."""

_CHUNK = 2**14
"""Values whose distances to a claimed one are in memory at a time."""


def fit_size(values: LabelMap, width: int, height: int, field: str) -> tuple[LabelMap, Warnings]:
    """Brings a map to the content image's size if it is off by a pixel or two; pixels take the nearest one's value.

    Raises:
        InvalidInputError: it is off by more.
    """
    own_height, own_width = values.shape
    if (own_width, own_height) == (width, height):
        return values, ()
    sizes = f"is {own_width}x{own_height} pixels, the content image {width}x{height}"
    if max(abs(own_width - width), abs(own_height - height)) > SIZE_TOLERANCE:
        raise InvalidInputError(field, sizes)
    rows = (np.arange(height) * 2 + 1) * own_height // (2 * height)
    columns = (np.arange(width) * 2 + 1) * own_width // (2 * width)
    return values[np.ix_(rows, columns)], (("label_map_resized", f"{field} {sizes}; it was resampled"),)


def repair_labels(
    picture: LabelPicture, claimed: Collection[int], field: str, *, cancelled: Cancelled = never
) -> tuple[LabelMap, Warnings]:
    """Gives pixels whose label no segment claims to a claimed one, where that is no guess.

    A colour (or grey value) near a claimed one becomes it, provided that the claimed ones are clearly apart: JPEG does
    this to whole areas, resaving and anti-aliasing to a few pixels. What is left, transparent pixels included, goes to
    the nearest pixel with a claimed label, provided that it is a sliver: under 0.5 % of the picture, or under 10 % and
    nowhere wider than 8 pixels.

    Returns:
        [H, W] with claimed labels alone, and what was done; with large areas of unclaimed labels, those as they are.

    Raises:
        InvalidInputError: too much of it is translucent, or it has too many colours.
        CancelledError: `cancelled`, polled between colours, said so.
    """
    present, counts = np.unique(picture.values, return_counts=True)
    if len(present) > MOST_VALUES:
        if picture.scale is Scale.COLOUR:
            raise too_many_colours(len(present) - int(present[0] < 0), field)
        raise InvalidInputError(field, f"has {len(present)} different labels, at most {MOST_VALUES} are allowed")
    known = np.isin(present, list(claimed))
    if known.all():
        check_colours(picture, field)
        return picture.values, ()
    warnings: list[tuple[str, str]] = []
    inverse = np.searchsorted(present, picture.values)
    values, repaired = picture.values, present.copy()
    if picture.scale is not Scale.INDEX and 1 <= len(claimed) <= MAX_COLOURS:
        nearest, near = _nearest_claimed(present, counts / picture.values.size, sorted(claimed), picture, cancelled)
        near &= ~known & (present >= 0)
        repaired[near] = nearest[near]
        known |= near
        if near.any():
            values = repaired[inverse]
            message = f"{field}: {_pixels(counts[near])} took the claimed colour near theirs; was it saved as JPEG?"
            warnings.append(("label_colours_snapped", message))
    stray = ~known[inverse]
    if not stray.any():
        return values, tuple(warnings)
    if not _is_sliver(stray):
        if not _is_sliver(picture.values < 0):
            raise translucent(field)
        check_colours(picture, field)
        return picture.values, ()
    what = "transparent pixels" if (picture.values[stray] < 0).all() else "labels that no segment claims"
    message = f"{field}: {_pixels(counts[~known])} of {what} went to the nearest segment"
    return fill_nearest(values, stray), (*warnings, ("label_slivers_filled", message))


def fill_nearest(values: LabelMap, holes: NDArray[np.bool_]) -> LabelMap:
    """Each pixel of `holes` [H, W] takes the value of the nearest pixel outside; at least one has to be outside."""
    _, nearest = cv2.distanceTransformWithLabels(
        holes.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_number = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
    by_number[nearest[~holes]] = values[~holes]
    filled: LabelMap = np.where(holes, by_number[nearest], values)
    return filled


def _nearest_claimed(
    present: NDArray[np.int32],
    shares: NDArray[np.float64],
    claimed: list[int],
    picture: LabelPicture,
    cancelled: Cancelled,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each value the nearest claimed one, and whether it is near enough to have been it."""
    scale = picture.scale
    targets = _as_colours(np.array(claimed), scale)
    distance = np.full(len(present), np.inf)
    nearest = np.zeros(len(present), dtype=np.int64)
    for start in range(0, len(present), _CHUNK):
        poll(cancelled)
        part = slice(start, start + _CHUNK)
        points = _as_colours(present[part], scale)
        for label, target in zip(claimed, targets, strict=True):
            to_this = np.linalg.norm(points - target, axis=1)
            nearest[part][to_this < distance[part]] = label
            distance[part] = np.minimum(distance[part], to_this)
    apart = np.linalg.norm(targets[:, None] - targets[None], axis=2)
    gap = apart[~np.eye(len(claimed), dtype=bool)].min(initial=np.inf)
    if gap < APART[scale]:
        return nearest, np.zeros(len(present), dtype=bool)
    reach = np.where(shares <= FEW, min(NOISE, gap / 3), DRIFT[scale] if picture.lossy else 0)
    return nearest, distance <= reach


def _as_colours(values: NDArray[np.integer], scale: Scale) -> NDArray[np.float64]:
    """[N, 3] or, for grey values, [N, 1]."""
    if scale is Scale.GREY:
        return values[:, None].astype(np.float64)
    return np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1).astype(np.float64)


def _is_sliver(pixels: NDArray[np.bool_]) -> bool:
    share = float(pixels.mean())
    if share <= FEW or share > MANY:
        return share <= FEW
    depth = cv2.distanceTransform(pixels.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return float(depth.max()) <= THICK


def _pixels(counts: NDArray[np.integer]) -> str:
    total = int(counts.sum())
    return f"{total} pixel{'s' if total != 1 else ''}"
