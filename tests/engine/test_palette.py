"""Palette transport."""

from __future__ import annotations

import pytest
import torch
from intarsia_server.engine.palette import transport
from torch import Tensor


def colours(count: int, seed: int, spread: float = 1.0) -> Tensor:
    """Correlated colours off the origin."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(3, 3, generator=generator) * spread
    return torch.rand(count, 3, generator=generator) @ mixing + torch.randn(3, generator=generator)


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
