"""Small tools that all the example pictures share: smooth noise, curves, colours, saving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Array = NDArray[np.float64]
Cell = float | tuple[float, float]
Points = Sequence[tuple[float, float]]


def hex_colours(codes: str) -> Array:
    """Turn ``"1b2a5c f0c040"`` into rows of RGB values in 0..1."""
    rows = [[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in codes.split()]
    return np.array(rows, dtype=np.float64) / 255.0


def ramp(colours: Array, value: Array) -> Array:
    """Colours of a palette, read off at ``value`` in 0..1 with linear mixing."""
    at = np.clip(value, 0.0, 1.0) * (len(colours) - 1)
    low = np.minimum(at.astype(int), len(colours) - 2)
    part = (at - low)[..., None]
    mixed: Array = colours[low] * (1 - part) + colours[low + 1] * part
    return mixed


def smoothstep(low: float, high: float, value: Array) -> Array:
    """Ramp from 0 to 1 between ``low`` and ``high`` without a kink at either end."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: Cell) -> Array:
    """Smooth noise of about unit deviation whose blobs are ``cell`` pixels (y, x) large."""
    cy, cx = cell if isinstance(cell, tuple) else (cell, cell)
    coarse = rng.standard_normal((int(shape[0] / cy) + 4, int(shape[1] / cx) + 4))
    y = 1.0 + np.arange(shape[0])[:, None] / cy + np.zeros((1, shape[1]))
    x = 1.0 + np.arange(shape[1])[None, :] / cx + np.zeros((shape[0], 1))
    field: Array = ndimage.map_coordinates(coarse, [y, x], order=3, mode="nearest")
    return field / float(field.std() + 1e-9)


def curve(points: Points, *, closed: bool = False, steps: int = 12) -> Array:
    """Catmull-Rom curve through ``points`` (x, y), with ``steps`` samples a span."""
    p = np.array(points, dtype=np.float64)
    p = np.vstack([p[-1:], p, p[:2]]) if closed else np.vstack([p[:1], p, p[-1:]])
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    t = (np.arange(steps) / steps)[None, :, None]
    bow, whip = 2 * a - 5 * b + 4 * c - d, 3 * b - a - 3 * c + d
    spans = 0.5 * (2 * b + (c - a) * t + bow * t**2 + whip * t**3)
    flat: Array = spans.reshape(-1, 2)
    return flat if closed else np.vstack([flat, p[-1:]])


def resample(path: Array, step: float) -> Array:
    """Put points at even distances of about ``step`` along a polyline."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    count = max(2, int(length[-1] / step) + 1)
    at = np.linspace(0.0, length[-1], count)
    return np.column_stack([np.interp(at, length, path[:, 0]), np.interp(at, length, path[:, 1])])


def shrink(picture: Array, factor: int) -> Array:
    """Average ``factor`` x ``factor`` blocks: the anti-aliasing of everything drawn too large."""
    h, w = picture.shape[0] // factor, picture.shape[1] // factor
    blocks = picture[: h * factor, : w * factor].reshape(h, factor, w, factor, -1)
    mean: Array = blocks.mean(axis=(1, 3))
    return mean


def save_rgb(picture: Array, path: Path) -> None:
    """Write values in 0..1 as an 8-bit RGB PNG without metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    Image.fromarray(pixels).save(path, optimize=True)
