"""Colour statistics: moving one palette to another by linear optimal transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BARYCENTRE_ROUNDS = 20


class Palette(NamedTuple):
    """Mean [3] and covariance [3, 3] of colours, double precision."""

    mean: Tensor
    covariance: Tensor


def palette(pixels: Tensor) -> Palette:
    """The palette of colours [P, 3] in any linear colour space."""
    values = pixels.double()
    mean = values.mean(dim=0)
    centred = values - mean
    # The ridge keeps a flat colour (a grey segment) invertible.
    ridge = 1e-4 * torch.eye(3, dtype=torch.float64, device=values.device)
    return Palette(mean, centred.T @ centred / len(values) + ridge)


def transport(pixels: Tensor, source: Palette, target: Palette, *, strength: float = 1.0) -> Tensor:
    """Moves colours so that one palette becomes another, with the least total movement.

    The Monge-Kantorovich map between two Gaussians (Pitié and Kokaram 2007, equation 8): dark stays dark and hues
    turn no further than they must.

    Args:
        pixels: [P, 3], of the source palette.
        source: where from.
        target: where to.
        strength: 0 leaves them where they are, 1 takes them all the way.

    Returns:
        [P, 3].
    """
    root, inverse_root = _power(source.covariance, 0.5), _power(source.covariance, -0.5)
    matrix = inverse_root @ _power(root @ target.covariance @ root, 0.5) @ inverse_root
    moved = (pixels.double() - source.mean) @ matrix + target.mean
    return torch.lerp(pixels.double(), moved, strength).to(pixels.dtype)


def barycentre(palettes: Sequence[Palette], weights: Sequence[float]) -> Palette:
    """The palette with the least weighted sum of squared Wasserstein distances to others.

    For Gaussians a fixed point (Álvarez-Esteban et al. 2016, equation 6); three colours converge in a few rounds.
    """
    total = sum(weights)
    shares = [weight / total for weight in weights]
    mean = torch.stack([share * p.mean for share, p in zip(shares, palettes, strict=True)]).sum(dim=0)
    covariance = torch.stack([share * p.covariance for share, p in zip(shares, palettes, strict=True)]).sum(dim=0)
    for _ in range(BARYCENTRE_ROUNDS):
        root, inverse_root = _power(covariance, 0.5), _power(covariance, -0.5)
        rooted = [share * _power(root @ p.covariance @ root, 0.5) for share, p in zip(shares, palettes, strict=True)]
        middle = torch.stack(rooted).sum(dim=0)
        covariance = inverse_root @ middle @ middle @ inverse_root
    return Palette(mean, covariance)


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    powered: Tensor = (vectors * values.clamp_min(1e-12) ** exponent) @ vectors.T
    return powered
