"""Masks of the segments, and the border map between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia_server.engine.segmentation import LabelMap

_ROWS = 256


def segment_masks(labels: LabelMap, count: int) -> Tensor:
    """Hard masks [R, H, W], float32: a partition of unity."""
    index = torch.from_numpy(np.ascontiguousarray(labels)).long()
    return torch.nn.functional.one_hot(index, count).permute(2, 0, 1).float().contiguous()


def feathered(masks: Tensor, radius: float) -> Tensor:
    """Masks that pass into each other over `radius` pixels to either side of a border.

    Args:
        masks: [R, H, W], a partition of unity.
        radius: in pixels; under 1 changes nothing.

    Returns:
        [R, H, W], a partition of unity: twice averaged over a square of about `radius`, so that weights rise and fall
        without a kink.
    """
    half = round(radius / 2)
    if half == 0:
        return masks
    soft = masks[None]
    side = 2 * half + 1
    # A square's average is that of the columns' averages: its cost grows with its side, not with its area.
    for _ in range(2):
        for margins, window in (([half, half, 0, 0], (1, side)), ([0, 0, half, half], (side, 1))):
            padded = torch.nn.functional.pad(soft, margins, mode="replicate")
            soft = torch.nn.functional.avg_pool2d(padded, window, stride=1)
    # Long sums round; the weights of a pixel still have to add up to what they were.
    return soft[0] * (1 / soft[0].sum(dim=0))


def feather_reach(radius: float) -> int:
    """Pixels around a part of the picture that show in its feathered masks."""
    return 2 * round(radius / 2)


def overlaps(masks: Tensor) -> Tensor:
    """How much masks [R, H, W] have in common, [R, R]: sum_p m_i m_j for i < j, else 0. Parts of a picture add up."""
    flat = masks.flatten(1)
    return (flat @ flat.T).triu(diagonal=1)


def largest_overlaps(shared: Tensor, *, most: int) -> tuple[list[tuple[int, int]], int]:
    """The `most` pairs (i, j) with the largest `overlaps` [R, R], in order, and how many others overlap, too."""
    pairs = shared.nonzero()
    largest = shared[pairs[:, 0], pairs[:, 1]].argsort(descending=True, stable=True)[:most]
    kept = sorted((int(i), int(j)) for i, j in pairs[largest])
    return kept, len(pairs) - len(kept)


def bands(masks: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Where two feathered masks of [R, H, W] overlap: 4 m_i m_j, which is 1 where both are a half, for each pair."""
    return torch.stack([4 * masks[i] * masks[j] for i, j in pairs]) if pairs else masks[:0]


def border_map(labels: LabelMap, radius: float) -> Tensor:
    """How near each pixel is to a border between segments (paper, Attempt 2 and figure 8).

    Args:
        labels: [H, W].
        radius: in pixels; where the map reaches 0.

    Returns:
        [H, W], float32: 1 on the border, falling linearly with the Euclidean distance.
    """
    border = border_pixels(labels)
    reach = int(np.ceil(radius))
    result = torch.empty(labels.shape)
    # Distances take many times the map's memory; a few rows at a time need those within reach alone.
    for start in range(0, len(labels), _ROWS):
        end = min(len(labels), start + _ROWS)
        first = max(0, start - reach)
        distance = distance_to(border[first : end + reach], reach)[start - first :][: end - start]
        result[start:end] = torch.from_numpy(np.maximum(0.0, 1.0 - distance / radius))
    return result


def border_pixels(labels: LabelMap) -> NDArray[np.bool_]:
    """Pixels with a neighbour of another label, on both sides of the border."""
    border = np.zeros(labels.shape, dtype=bool)
    vertical = labels[1:] != labels[:-1]
    horizontal = labels[:, 1:] != labels[:, :-1]
    border[1:] |= vertical
    border[:-1] |= vertical
    border[:, 1:] |= horizontal
    border[:, :-1] |= horizontal
    return border


def distance_to(pixels: NDArray[np.bool_], reach: int) -> NDArray[np.float64]:
    """Euclidean distance to the nearest marked pixel, exact up to `reach` and larger than it beyond.

    Separable: first along rows, then the best of all rows within reach; 2 reach + 1 vector operations each.
    """
    far = float(2 * reach + 1)
    along_row = _nearest(np.where(pixels, 0.0, far), reach, axis=1, combine=lambda d, step: d + step)
    squared = _nearest(along_row**2, reach, axis=0, combine=lambda d, step: d + step**2)
    return np.sqrt(squared)


def _nearest(distance: NDArray[np.float64], reach: int, *, axis: int, combine: object) -> NDArray[np.float64]:
    assert callable(combine)
    best = distance.copy()
    length = distance.shape[axis]
    for step in range(1, min(reach, length - 1) + 1):
        ahead = [slice(None), slice(None)]
        behind = [slice(None), slice(None)]
        ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
        best[tuple(behind)] = np.minimum(best[tuple(behind)], combine(distance[tuple(ahead)], step))
        best[tuple(ahead)] = np.minimum(best[tuple(ahead)], combine(distance[tuple(behind)], step))
    return best
