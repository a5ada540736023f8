"""Colour statistics: moving one palette to another by linear optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor


def transport(pixels: Tensor, target: Tensor) -> Tensor:
    """Moves colours so that their mean and covariance become those of other colours, with the least total movement.

    The Monge-Kantorovich map between two Gaussians (Pitié and Kokaram 2007, equation 8): dark stays dark and hues
    turn no further than they must.

    Args:
        pixels: [P, 3], any linear colour space.
        target: [Q, 3], the same space.

    Returns:
        [P, 3].
    """
    mean, covariance = _statistics(pixels)
    target_mean, target_covariance = _statistics(target)
    root = _power(covariance, 0.5)
    inverse_root = _power(covariance, -0.5)
    matrix = inverse_root @ _power(root @ target_covariance @ root, 0.5) @ inverse_root
    return ((pixels.double() - mean) @ matrix + target_mean).to(pixels.dtype)


def _statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance in double precision; the ridge keeps a flat colour (a grey segment) invertible."""
    values = pixels.double()
    mean = values.mean(dim=0)
    centred = values - mean
    covariance = centred.T @ centred / len(values) + 1e-4 * torch.eye(3, dtype=torch.float64, device=values.device)
    return mean, covariance


def _power(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    powered: Tensor = (vectors * values.clamp_min(1e-12) ** exponent) @ vectors.T
    return powered
