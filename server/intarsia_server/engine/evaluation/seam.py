"""Seam: whether gradients at the borders stand out from those beside them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from intarsia_server.engine.figures import Seam
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.masks import border_pixels, distance_to
from intarsia_server.engine.segmentation import LabelMap

NEAR = 6
"""Distances 0 to 5 px belong to the border."""

RING = (6, 15)
"""Distances in px, both included, of what it is compared with."""

FEW_PIXELS = 32

_INVISIBLE = 1.0
"""Grey levels of gradient that nobody sees: added to both sides of a ratio, so that a flat picture has one of 1."""


def seam_distance(labels: LabelMap, styled: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance in pixels to the nearest border with a styled segment on a side; exact up to the ring's outer end.

    Args:
        labels: [H, W].
        styled: per segment [R]. Two kept segments are one here: no method draws anything between them.
    """
    kept = len(styled)
    return distance_to(border_pixels(np.where(styled[labels], labels, kept).astype(np.int32)), RING[1] + 1)


def seam(pixels: Pixels, distance: NDArray[np.float64]) -> Seam | None:
    """The factor by which the gradient at a border differs most from that of the ring, in either direction.

    value = exp max_d |log(g_d / g_ring)|, g_d the mean colour gradient of the pixels d to d + 1 px from a border. The
    plain ratio of all that is within a few pixels to the ring would call a blurred border perfect: the step that is
    left and the smear beside it cancel out.

    Args:
        pixels: RGB [H, W, 3].
        distance: of `seam_distance`.

    Returns:
        None without a border or a ring.
    """
    ring = (distance >= RING[0]) & (distance <= RING[1])
    if ring.sum() < FEW_PIXELS:
        return None
    gradient = colour_gradient(pixels)
    beside = float(gradient[ring].mean())
    profile: dict[int, float] = {}
    for start in range(RING[1] + 1):
        band = gradient[(distance >= start) & (distance < start + 1)]
        if band.size >= FEW_PIXELS:
            profile[start] = (float(band.mean()) + _INVISIBLE) / (beside + _INVISIBLE)
    near = [abs(math.log(ratio)) for start, ratio in profile.items() if start < NEAR]
    return Seam(math.exp(max(near)), tuple(profile), tuple(profile.values())) if near else None


def colour_gradient(pixels: Pixels) -> NDArray[np.float32]:
    """Magnitude of the forward differences over all channels [H, W], in grey levels."""
    values = pixels.astype(np.float32)
    squared = np.zeros(values.shape[:2], np.float32)
    squared[:-1] += np.square(values[1:] - values[:-1]).sum(axis=2)
    squared[:, :-1] += np.square(values[:, 1:] - values[:, :-1]).sum(axis=2)
    root: NDArray[np.float32] = np.sqrt(squared)
    return root
