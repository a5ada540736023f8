"""Inputs of the kernels and what must come out of them, by dense sums in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TILE = 64
# Relative distances of neighbouring numbers.
EPSILON = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}


@dataclass(frozen=True)
class Plan:
    """Masks as the kernels take them; see intarsia_server.ops.plan, whose counterpart this is."""

    indices: np.ndarray
    weights: np.ndarray | None
    tile_segments: np.ndarray
    group_tiles: np.ndarray
    mass: np.ndarray


def make_plan(masks: np.ndarray) -> Plan:
    """The plan of masks [R, H, W], made one pixel after the other."""
    segments = len(masks)
    flat = masks.reshape(segments, -1)
    groups: dict[tuple[int, int], list[int]] = {}
    for pixel in range(flat.shape[1]):
        owners = np.flatnonzero(flat[:, pixel])
        for k, segment in enumerate(owners if len(owners) else [segments]):
            groups.setdefault((k, int(segment)), []).append(pixel)
    passes = 1 + max(k for k, _ in groups)
    indices: list[int] = []
    weights: list[float] = []
    tile_segments: list[int] = []
    group_tiles = np.zeros((passes, segments + 2), dtype=np.int32)
    for k in range(passes):
        for segment in range(segments + 1):
            group_tiles[k, segment] = len(tile_segments)
            pixels = groups.get((k, segment), [])
            padding = -len(pixels) % TILE
            indices += pixels + [-1] * padding
            weights += [float(flat[segment, p]) if segment < segments else 0.0 for p in pixels] + [0.0] * padding
            tile_segments += [segment] * ((len(pixels) + padding) // TILE)
        group_tiles[k, segments + 1] = len(tile_segments)
    hard = bool(np.isin(masks, [0, 1]).all())
    return Plan(
        np.array(indices, dtype=np.int32),
        None if hard else np.array(weights, dtype=np.float32),
        np.array(tile_segments, dtype=np.int32),
        group_tiles,
        flat.sum(axis=1, dtype=np.float64).astype(np.float32),
    )


def hard_masks(segments: int, height: int, width: int, *, uncovered: float = 0, seed: int = 0) -> np.ndarray:
    """Each pixel in one segment, but for the share `uncovered` in none."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((height, width)) < uncovered, -1, rng.integers(segments, size=(height, width)))
    return (labels == np.arange(segments)[:, None, None]).astype(np.float32)


def soft_masks(segments: int, height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Overlapping; a third of the weights are 0 and some are 1."""
    values = np.random.default_rng(seed).random((segments, height, width))
    return (1.6 * values - 0.5).clip(0, 1).astype(np.float32)


def rounded(values: np.ndarray, kind: str) -> np.ndarray:
    """As float32, of the numbers that the type `kind` has."""
    if kind == "f16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.astype(np.float32).view(np.uint32)
    if kind == "bf16":
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def random(*shape: int, seed: int = 0, kind: str = "f32") -> np.ndarray:
    return rounded(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), kind)


def gram(features: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """G_r = sum_p m f f^T / sum_p m and the mean, zeros where there is no weight; and G_r of the absolute values."""
    x, m = features.astype(np.float64), masks.astype(np.float64)
    mass = m.sum(axis=(1, 2))
    share = m / np.where(mass > 0, mass, 1)[:, None, None]
    matrix = np.einsum("nchw,rhw,ndhw->nrcd", x, share, x, optimize=True)
    size = np.einsum("nchw,rhw,ndhw->nrcd", np.abs(x), share, np.abs(x), optimize=True)
    return matrix, np.einsum("nchw,rhw->nrc", x, share), size


def backward(
    features: np.ndarray,
    masks: np.ndarray,
    matrices: np.ndarray,
    scales: np.ndarray,
    mean_gradient: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """sum_r m_r (scale_r M_r f + mean_gradient_r) at each pixel; and the same of the absolute values."""
    results = []
    for convert in (np.asarray, np.abs):
        x, m, matrix, scale = (convert(v.astype(np.float64)) for v in (features, masks, matrices, scales))
        result = np.einsum("rhw,nr,nrcd,ndhw->nchw", m, scale, matrix, x, optimize=True)
        if mean_gradient is not None:
            result += np.einsum("rhw,nrc->nchw", m, convert(mean_gradient.astype(np.float64)))
        results.append(result)
    return results[0], results[1]


def tv(image: np.ndarray, weight: np.ndarray | None, *, product: bool) -> tuple[float, np.ndarray]:
    """The total variation of an image [N, C, H, W] and its gradient."""
    x = image.astype(np.float64)
    b = np.ones(x.shape[2:]) if weight is None else weight.astype(np.float64)
    factor = b if product else np.ones_like(b)
    pair = np.ones_like(b) if product else b
    y = x * factor
    loss, gradient = 0.0, np.zeros_like(y)
    for axis in (2, 3):
        low, high = [slice(None)] * 4, [slice(None)] * 4
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        share = (pair[tuple(low[2:])] + pair[tuple(high[2:])]) / 2
        change = y[tuple(high)] - y[tuple(low)]
        loss += float((share * change**2).sum())
        gradient[tuple(high)] += 2 * share * change
        gradient[tuple(low)] -= 2 * share * change
    return loss / x.size, gradient * factor / x.size


def convolution_input(features: np.ndarray, *, pool: bool, pad: bool) -> np.ndarray:
    """Means of 2x2 pixels, then the edges once more."""
    x = features.astype(np.float64)
    if pool:
        batch, channels, height, width = x.shape
        x = x[:, :, : height // 2 * 2, : width // 2 * 2]
        x = x.reshape(batch, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    return np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge") if pad else x


def relu_backward(
    output: np.ndarray, gradient: np.ndarray, added: np.ndarray | None, *, pooled: bool, padded: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The gradient by what went into the ReLU; and the same of the absolute values.

    The transpose of `convolution_input`, found by asking it where each pixel of a map goes.
    """
    height, width = output.shape[2:]
    pixels = np.eye(height * width).reshape(height * width, 1, height, width)
    flows = convolution_input(pixels, pool=pooled, pad=padded)[:, 0]
    more = np.zeros(output.shape) if added is None else added.astype(np.float64)
    results = []
    for convert in (np.asarray, np.abs):
        flown = np.einsum("phw,nchw->ncp", flows, convert(gradient.astype(np.float64)), optimize=True)
        results.append(np.where(output > 0, flown.reshape(output.shape) + convert(more), 0))
    return results[0], results[1]


def feature_loss(
    features: np.ndarray, target: np.ndarray, weight: np.ndarray | None, share: float
) -> tuple[float, np.ndarray]:
    """A share of sum w (F - T)^2 and its gradient by F."""
    difference = features.astype(np.float64) - target.astype(np.float64)
    weighted = difference if weight is None else difference * weight.astype(np.float64)
    return share * float((weighted * difference).sum()), 2 * share * weighted
