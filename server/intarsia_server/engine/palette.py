"""Colour statistics: moving one palette to another by linear optimal transport."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

BARYCENTRE_ROUNDS = 20

_PIECE = 2**18
"""Colours that are worked on at a time: in double precision they take several times their memory."""


class Palette(NamedTuple):
    """Mean [3] and covariance [3, 3] of colours, double precision."""

    mean: Tensor
    covariance: Tensor


def palette(pixels: Tensor) -> Palette:
    """The palette of colours [P, 3] in any linear colour space."""
    colours = Colours()
    colours.add(pixels)
    return colours.palette


class Colours:
    """Colours that are added up part by part.

    Attributes:
        count: of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, pixels: Tensor) -> None:
        """Adds colours [P, 3]."""
        self.count += len(pixels)
        for piece in torch.split(pixels, _PIECE):
            values = piece.double()
            self._sum = self._sum + values.sum(dim=0)
            self._squares = self._squares + values.T @ values

    @property
    def palette(self) -> Palette:
        """Of all that have been added; there are some."""
        mean = torch.as_tensor(self._sum) / self.count
        covariance = torch.as_tensor(self._squares) / self.count - mean[:, None] * mean
        # The ridge keeps a flat colour (a grey segment) invertible.
        return Palette(mean, covariance + 1e-4 * torch.eye(3, dtype=torch.float64, device=mean.device))


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
    result = torch.empty_like(pixels)
    for piece, moved in zip(torch.split(pixels, _PIECE), torch.split(result, _PIECE), strict=True):
        values = piece.double()
        moved.copy_(torch.lerp(values, (values - source.mean) @ matrix + target.mean, strength))
    return result


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
