"""Palette transport."""

from __future__ import annotations

import pytest
import torch
from intarsia_server.engine import palette as palettes
from intarsia_server.engine.palette import Palette, barycentre, palette
from torch import Tensor


def colours(count: int, seed: int, spread: float = 1.0) -> Tensor:
    """Correlated colours off the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, 3, generator=generator) * spread
    return torch.rand(count, 3, generator=generator) @ mixing + torch.randn(3, generator=generator)


def transport(source: Tensor, target: Tensor, *, strength: float = 1.0) -> Tensor:
    """Colours moved to the palette of others."""
    return palettes.transport(source, palette(source), palette(target), strength=strength)


@pytest.mark.parametrize("seed", range(4))
def test_takes_the_targets_mean_and_covariance(seed: int) -> None:
    source, target = colours(500, seed), colours(300, seed + 100, spread=2.0)
    moved = transport(source, target)
    assert moved.shape == source.shape
    assert moved.dtype == source.dtype
    torch.testing.assert_close(moved.mean(dim=0), target.mean(dim=0), rtol=0, atol=1e-4)
    covariance = torch.cov(target.T, correction=0)
    error = torch.cov(moved.T, correction=0) - covariance
    assert float(error.norm()) < 0.02 * float(covariance.norm())


def test_equal_palettes_stay() -> None:
    source = colours(400, 1)
    torch.testing.assert_close(transport(source, source), source, rtol=0, atol=1e-5)
    shuffled = source[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(transport(source, shuffled), source, rtol=0, atol=1e-5)


def test_a_shift_moves_every_colour_alike() -> None:
    source, shift = colours(400, 2), torch.tensor([0.5, -1.0, 2.0])
    torch.testing.assert_close(transport(source, source + shift), source + shift, rtol=0, atol=1e-5)


def test_turns_hues_no_further_than_it_must() -> None:
    """The Monge map is symmetric and positive: unlike a map by Cholesky factors it never mirrors or rotates."""
    source, target = colours(600, 3), colours(600, 4)
    moved = transport(source, target).double()
    centred = source.double() - source.double().mean(dim=0)
    matrix = torch.linalg.lstsq(centred, moved - moved.mean(dim=0)).solution
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-4)
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0


def test_flat_colour_becomes_the_targets_mean() -> None:
    target = colours(300, 5)
    moved = transport(torch.full((50, 3), 0.3), target)
    torch.testing.assert_close(moved, target.mean(dim=0).expand(50, 3), rtol=0, atol=1e-4)


def test_flat_target_gathers_every_colour() -> None:
    source = colours(300, 6)
    moved = transport(source, torch.full((40, 3), 0.25))
    assert torch.isfinite(moved).all()
    assert float((moved - 0.25).abs().max()) < 0.05 * float((source - source.mean(dim=0)).abs().max()) + 0.05


@pytest.mark.parametrize("count", [1, 2])
def test_few_pixels_stay_finite(count: int) -> None:
    moved = transport(colours(count, 7), colours(300, 8))
    assert torch.isfinite(moved).all()


def test_grey_pictures_stay_finite() -> None:
    """All colours on one line: two of three variances are 0."""
    grey = torch.rand(200, 1, generator=torch.Generator().manual_seed(0)).expand(200, 3)
    for source, target in ((grey, colours(200, 9)), (colours(200, 9), grey), (grey, grey)):
        moved = transport(source, target)
        assert torch.isfinite(moved).all()
        torch.testing.assert_close(moved.mean(dim=0), target.mean(dim=0), rtol=0, atol=1e-3)


def test_half_the_strength_goes_half_the_way() -> None:
    source, target = colours(300, 10), colours(300, 11)
    torch.testing.assert_close(transport(source, target, strength=0.0), source)
    halfway = (source + transport(source, target)) / 2
    torch.testing.assert_close(transport(source, target, strength=0.5), halfway, rtol=0, atol=1e-5)


def distance(a: Palette, b: Palette) -> float:
    """Squared Wasserstein distance of two Gaussians."""
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float((a.mean - b.mean).square().sum() + traces)


def test_barycentre_is_nearest_to_all() -> None:
    """No palette close by has a smaller weighted sum of squared distances."""
    given = [palette(colours(400, seed, spread=1 + seed)) for seed in range(3)]
    weights = [0.5, 0.3, 0.2]

    def cost(candidate: Palette) -> float:
        return sum(weight * distance(candidate, other) for weight, other in zip(weights, given, strict=True))

    middle = barycentre(given, [5.0, 3.0, 2.0])
    for seed in range(20):
        nudge = 0.02 * torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        factor = torch.eye(3, dtype=torch.float64) + nudge[:, :3]
        moved = Palette(middle.mean + nudge[:, 3], factor @ middle.covariance @ factor.T)
        assert cost(middle) < cost(moved)


def test_barycentre_of_one_is_itself() -> None:
    only = palette(colours(400, 3))
    middle = barycentre([only], [7.0])
    torch.testing.assert_close(middle.mean, only.mean)
    torch.testing.assert_close(middle.covariance, only.covariance)
