"""Borders between styled segments, and what lies at which distance from each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intarsia_server.engine.masks import border_pixels, distance_to
from intarsia_server.engine.segmentation import LabelMap

REACH = 24
"""How far to either side of a border a transition is followed, in pixels."""


@dataclass(frozen=True)
class BorderZone:
    """The pixels within `REACH` of the border between two segments, and nearer to it than to any other border.

    Attributes:
        first: the segment with the lower index.
        second: the other one.
        length: pairs of neighbouring pixels that it separates.
        window: the part of the picture that holds the zone.
        offset: signed distance [h, w] in pixels within the window, negative in `first`; NaN outside the zone.
    """

    first: int
    second: int
    length: int
    window: tuple[slice, slice]
    offset: NDArray[np.float64]


def border_zones(labels: LabelMap, styled: NDArray[np.bool_]) -> Iterator[BorderZone]:
    """Every border between two styled segments.

    Args:
        labels: [H, W].
        styled: per segment [R].
    """
    any_border = distance_to(border_pixels(labels), REACH + 1)
    count = len(styled)
    pairs = np.concatenate([_pairs(labels[:-1], labels[1:], count), _pairs(labels[:, :-1], labels[:, 1:], count)])
    codes, lengths = np.unique(pairs, return_counts=True)
    for code, length in zip(codes.tolist(), lengths.tolist(), strict=True):
        first, second = divmod(code, count)
        if styled[first] and styled[second]:
            yield _zone(labels, any_border, first, second, length)


def _pairs(one: LabelMap, other: LabelMap, count: int) -> NDArray[np.int64]:
    differ = one != other
    low, high = np.minimum(one, other)[differ], np.maximum(one, other)[differ]
    coded: NDArray[np.int64] = low.astype(np.int64) * count + high
    return coded


def _zone(labels: LabelMap, any_border: NDArray[np.float64], first: int, second: int, length: int) -> BorderZone:
    # Everything else is 2: of two neighbours, only those of this border add up to 1.
    own = np.where(labels == first, 0, np.where(labels == second, 1, 2)).astype(np.int32)
    edge = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        ahead, behind = np.moveaxis(own, axis, 0)[1:], np.moveaxis(own, axis, 0)[:-1]
        cut = ahead + behind == 1
        np.moveaxis(edge, axis, 0)[1:] |= cut
        np.moveaxis(edge, axis, 0)[:-1] |= cut
    rows, columns = np.nonzero(edge.any(axis=1))[0], np.nonzero(edge.any(axis=0))[0]
    window = (
        slice(max(0, int(rows[0]) - REACH), int(rows[-1]) + REACH + 1),
        slice(max(0, int(columns[0]) - REACH), int(columns[-1]) + REACH + 1),
    )
    distance = distance_to(edge[window], REACH + 1)
    own = own[window]
    # Half a pixel: the border lies between the pixels that it marks.
    offset = np.where(own == 0, -1.0, 1.0) * (distance + 0.5)
    outside = (own == 2) | (distance > any_border[window]) | (distance >= REACH)
    offset[outside] = np.nan
    return BorderZone(first, second, length, window, offset)
