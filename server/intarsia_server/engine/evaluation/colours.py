"""Palette: whether colours on the two sides of a border are nearer to each other than their styles' are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intarsia_server.engine.evaluation.borders import BorderZone
from intarsia_server.engine.images import Pixels

NEAR = 15
"""How far from the border colours are compared, in pixels."""

FEW_PIXELS = 64
SAME_PALETTE = 2e-3
"""Distance under which two style images have one palette; a just noticeable difference is about 0.02."""

_QUANTILES = (np.arange(128) + 0.5) / 128
_SAMPLE = 2**16

Colours = NDArray[np.float32]
"""Oklab, [P, 3]."""


def oklab(rgb: NDArray[np.uint8]) -> Colours:
    """SRGB [..., 3] to Oklab [P, 3], in which equal distances look about equal (Ottosson 2020)."""
    encoded = rgb.reshape(-1, 3).astype(np.float32) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    lab: Colours = (np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T).astype(np.float32)
    return lab


_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def colour_quantiles(colours: Colours) -> NDArray[np.float64]:
    """A distribution of colours in 32 directions, 128 quantiles each: [128, 32]."""
    # Style images may be large, and their palette is known long before every pixel is sorted.
    sample = colours[:: -(-len(colours) // _SAMPLE)]
    found: NDArray[np.float64] = np.quantile(sample @ _DIRECTIONS.T, _QUANTILES, axis=0)
    return found


def _half_sphere(count: int) -> NDArray[np.float64]:
    """Directions spread evenly over half a sphere (a Fibonacci lattice): the same ones every time."""
    height = (np.arange(count) + 0.5) / count
    turn = np.pi * (1 + 5**0.5) * np.arange(count)
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)


_DIRECTIONS = _half_sphere(32)


def colour_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Sliced 1-Wasserstein distance of two results of `colour_quantiles`, in Oklab units."""
    return float(np.abs(one - other).mean())


def palette_step(
    pixels: Pixels, zone: BorderZone, first: NDArray[np.float64], second: NDArray[np.float64]
) -> float | None:
    """Colour distance of the two sides of a border over that of their style images.

    Args:
        pixels: the result, RGB [H, W, 3].
        zone: the border.
        first: `colour_quantiles` of the first segment's style image.
        second: of the second's.

    Returns:
        0 or more; None for styles of one palette, or with too few pixels on a side.
    """
    styles = colour_distance(first, second)
    window = pixels[zone.window]
    sides = [window[(offset > 0) & (offset <= NEAR + 1)] for offset in (-zone.offset, zone.offset)]
    if styles < SAME_PALETTE or min(map(len, sides)) < FEW_PIXELS:
        return None
    one, other = (colour_quantiles(oklab(side)) for side in sides)
    return colour_distance(one, other) / styles
