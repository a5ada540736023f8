"""How a picture is cut into tiles, and which tiles a memory budget allows."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from intarsia_server.engine.cost.memory import MIN_TILE, job_budget, peak_memory, tile_pixels_for
from intarsia_server.engine.cost.work import job_work
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.parameters import BlendedParameters
from intarsia_server.engine.request import Precision
from intarsia_server.engine.tiles import (
    MARGINS,
    MIN_CORE,
    OVERLAP,
    largest_tile,
    seen_share,
    tile_count,
    tiles_of,
)
from intarsia_server.engine.vgg import STYLE_LAYERS, pool_count
from intarsia_server.engine.window import GRID
from test_cost import job

SIZES = [(239, 331), (2160, 3840), (33, 523), (720, 65), (80, 80), (1001, 999)]
LARGE = (3840, 2160)
GIB = 2**30


@pytest.mark.parametrize("most", [1, 90_000, 400_000, None])
@pytest.mark.parametrize("size", SIZES)
def test_cores_are_the_picture(size: tuple[int, int], most: int | None) -> None:
    height, width = size
    tiles = tiles_of(height, width, most)
    seen = np.zeros(size, int)
    for tile in tiles:
        tile.core.view(torch.from_numpy(seen)).add_(1)
        outer, core = tile.outer, tile.core
        assert {side % GRID for side in (core.top, core.left)} == {0}
        for start, end, first, last, side in (
            (outer.top, outer.bottom, core.top, core.bottom, height),
            (outer.left, outer.right, core.left, core.right, width),
        ):
            assert (start, end) == (max(0, first - OVERLAP), min(side, last + OVERLAP))
            assert last - first >= min(side, GRID)
            assert last % GRID == 0 or last == side
        for layer in STYLE_LAYERS:
            part = tile.parts[pool_count(layer)]
            assert tile.inner(layer).moved(outer.top + part.top, outer.left + part.left) == core
    assert (seen == 1).all()
    assert tile_count(height, width, most) == len(tiles)
    for block in range(1, 6):
        share = sum(tile.parts[block - 1].share for tile in tiles)
        assert seen_share(height, width, most, block) == pytest.approx(share)
    tall, wide = largest_tile(height, width, most)
    assert (tall, wide) == (max(t.outer.size[0] for t in tiles), max(t.outer.size[1] for t in tiles))
    if most is not None and most >= (MIN_CORE + GRID + 2 * OVERLAP) ** 2:
        assert tall * wide <= most


def test_more_room_is_less_overlap() -> None:
    shares = [seen_share(2160, 3840, most) for most in (100_000, 300_000, 1_000_000, 4_000_000, None)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 1


@pytest.mark.parametrize("size", SIZES)
def test_parts_lie_in_each_other_in_whole_squares_of_pooling(size: tuple[int, int]) -> None:
    for tile in tiles_of(*size, 90_000):
        whole, *later = tile.parts
        assert (whole.top, whole.left, whole.size) == (0, 0, tile.outer.size)
        for block, (before, part) in enumerate(itertools.pairwise([whole, *later]), 2):
            assert before.top <= part.top < part.bottom <= before.bottom
            assert before.left <= part.left < part.right <= before.right
            for start in (tile.outer.top + part.top, tile.outer.left + part.left):
                assert start % 2 ** (block - 1) == 0


def test_margins_are_as_wide_as_the_encoders_reach(encoder: Encoder) -> None:
    """What is farther from a cell of the deepest layer does not show in it; what is as near, does."""
    picture = torch.zeros(1, 3, 32, 352)
    cell = 10
    first = cell * GRID - OVERLAP
    with torch.no_grad():
        (plain,) = encoder(picture, ["relu5_1"]).values()
        for column, shows in ((first - 1, False), (first, True)):
            changed = picture.clone()
            changed[..., column] = 100
            (other,) = encoder(changed, ["relu5_1"]).values()
            assert bool((other[..., cell] != plain[..., cell]).any()) == shows
    assert MARGINS == (70, 68, 64, 48, 16)


def needed(**changes: Any) -> Any:
    request = job(parameters=BlendedParameters(), **changes)
    return partial(peak_memory, request, LARGE, precision=Precision.FP32, loaded=True)


def test_no_tiles_where_there_is_room() -> None:
    memory = needed()
    assert tile_pixels_for(memory, LARGE, memory(tile_pixels=None)) is None
    assert tile_pixels_for(memory, LARGE, memory(tile_pixels=None) - 1) is not None


@pytest.mark.parametrize("gibibytes", [6, 9, 16])
def test_tiles_fit_the_budget_and_are_as_large_as_they_can_be(gibibytes: int) -> None:
    memory, budget = needed(), job_budget(gibibytes * GIB)
    found = tile_pixels_for(memory, LARGE, budget)
    assert found is not None
    assert memory(tile_pixels=found) <= budget < memory(tile_pixels=round(1.2 * found))


def test_a_budget_below_everything_gives_the_smallest_tiles() -> None:
    assert tile_pixels_for(needed(), LARGE, 0) == MIN_TILE


def test_tiles_take_longer() -> None:
    request = job(parameters=BlendedParameters(coarse_steps=0))
    whole, tiled = (job_work(request, LARGE, None, pixels).stages[0].step_flops for pixels in (None, 400_000))
    shares = [seen_share(LARGE[1], LARGE[0], 400_000, block) for block in (3, 4)]
    # Seen once more for the Gram matrices, which is half as much again of the encoder's work, and with the overlap, of
    # which blocks 3 and 4 count most: they are most of the work.
    assert 1.35 * shares[1] < tiled / whole < 1.55 * shares[0]
