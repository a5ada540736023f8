"""Transition: how suddenly one style becomes the other across a border."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from intarsia_server.engine.evaluation.borders import REACH, BorderZone
from intarsia_server.ops import build_plan, masked_gram

TRANSITION_LAYER = "relu1_2"
"""Full resolution and in no objective; it sees 5x5 pixels, little more than a bin is wide."""

BIN = 4
"""Width of a bin of signed distance, in pixels."""

FEW_PIXELS = 64
"""A bin with fewer has no Gram matrix worth comparing."""

Statistics = tuple[Tensor, Tensor]
"""Gram matrices [N, C * C] and means [N, C]."""


def statistics(features: Tensor, masks: Tensor) -> Statistics:
    """Of features [1, C, H, W] under masks [N, H, W]."""
    found = masked_gram(features, build_plan(masks))
    return found.gram[0].flatten(1), found.mean[0]


def transition_curve(
    features: Tensor, zone: BorderZone, first: Statistics, second: Statistics
) -> tuple[tuple[float, ...], tuple[float, ...], float | None]:
    """Where the picture stands between the two styles, by signed distance from their border.

    A bin's statistics q are projected on the line between the styles' a and b: t = <q - a, b - a> / |b - a|^2, for Gram
    matrices and for means, of which the mean is taken.

    Args:
        features: of the picture at `TRANSITION_LAYER` [1, C, H, W].
        zone: the border.
        first: statistics of the first segment's style image.
        second: of the second's.

    Returns:
        Offsets in pixels, curve, and the largest step between neighbouring bins, all as in `figures.Border`; empty for
        styles that are alike.
    """
    starts = range(-REACH, REACH, BIN)
    bins = np.stack([(zone.offset >= start) & (zone.offset < start + BIN) for start in starts])
    kept = [index for index, count in enumerate(bins.sum(axis=(1, 2))) if count >= FEW_PIXELS]
    if not kept or any(map(_alike, first, second)):
        return (), (), None
    masks = torch.from_numpy(bins[kept]).to(features)
    found = statistics(features[(slice(None), slice(None), *zone.window)].contiguous(), masks)
    places = [_between(q, a[0], b[0]) for q, a, b in zip(found, first, second, strict=True)]
    curve = torch.stack(places).mean(dim=0).tolist()
    steps = [abs(curve[i + 1] - curve[i]) for i in range(len(kept) - 1) if kept[i + 1] == kept[i] + 1]
    offsets = tuple(starts[index] + BIN / 2 for index in kept)
    return offsets, tuple(curve), max(steps, default=None)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two styles are too near to each other to have a line between them."""
    return bool((a - b).norm() < 0.01 * (a.norm() + b.norm()))


def _between(q: Tensor, a: Tensor, b: Tensor) -> Tensor:
    line = b - a
    return (q - a) @ line / line.square().sum()


def weighted_mean(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Of the values that there are; None without any."""
    present = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    total = sum(weight for _, weight in present)
    return sum(value * weight for value, weight in present) / total if total else None
