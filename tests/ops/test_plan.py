"""How masks become passes, groups and tiles."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from intarsia_server.ops import MaskPlan, build_plan
from intarsia_server.ops.plan import MAX_SEGMENTS, TILE
from ops_cases import Masks, hard_masks, soft_masks
from torch import Tensor

SIZES = ((1, 1), (8, 8), (5, 13), (1, 129), (30, 41))


def entries(plan: MaskPlan) -> Tensor:
    """(pass, segment, position, pixel) of every entry that is not padding, int64 [E, 4], in order."""
    passes, groups = plan.group_tiles.shape[0], plan.group_tiles.shape[1] - 1
    tiles = plan.group_tiles.diff(dim=1).flatten()
    group = torch.arange(passes * groups).repeat_interleave(tiles).repeat_interleave(TILE)
    position = (plan.indices >= 0).nonzero().squeeze(1)
    number = group[position]
    return torch.stack([number // groups, number % groups, position, plan.indices[position].long()], dim=1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_entries_are_the_masks(masks: Masks, size: tuple[int, int]) -> None:
    weights = masks(*size)
    plan = build_plan(weights)
    _, segment, position, pixel = entries(plan).unbind(1)
    rebuilt = torch.zeros(len(weights) + 1, size[0] * size[1], dtype=torch.float64)
    values = torch.ones(len(position)).double() if plan.weights is None else plan.weights[position]
    rebuilt.index_put_((segment, pixel), values, accumulate=True)
    assert torch.equal(rebuilt[:-1].view(weights.shape), weights)
    assert int((segment < len(weights)).sum()) == int(weights.count_nonzero())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_passes_divide_the_pixels(masks: Masks, size: tuple[int, int]) -> None:
    """Pass 0 holds each pixel once, the others at most once; there are as many as segments on one pixel."""
    weights = masks(*size)
    plan = build_plan(weights)
    found = entries(plan)
    pixels = size[0] * size[1]
    assert sorted(found[found[:, 0] == 0, 3].tolist()) == list(range(pixels))
    for number in range(1, len(plan.group_tiles)):
        own = found[found[:, 0] == number]
        assert len(own[:, 3].unique()) == len(own) > 0
        assert int(own[:, 1].max()) < len(weights)
    overlap = int(weights.count_nonzero(dim=0).max())
    assert len(plan.group_tiles) == max(overlap, 1)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_of_no_segment_go_to_the_pseudo_segment(masks: Masks, size: tuple[int, int]) -> None:
    weights = masks(*size)
    plan = build_plan(weights)
    found = entries(plan)
    outside = found[found[:, 1] == len(weights)]
    expected = (weights.count_nonzero(dim=0) == 0).flatten().nonzero().squeeze(1)
    assert outside[:, 3].tolist() == expected.tolist()
    assert not outside[:, 0].any()
    if plan.weights is not None:
        assert not plan.weights[outside[:, 2]].any()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_entries_are_sorted_and_groups_padded_at_their_end(masks: Masks, size: tuple[int, int]) -> None:
    plan = build_plan(masks(*size))
    found = entries(plan)
    soft = torch.zeros(len(found), dtype=torch.int64)
    if plan.weights is not None:
        soft = ((plan.weights[found[:, 2]] != 1) & (found[:, 1] < len(plan.mass))).long()
    order = torch.stack([found[:, 0], found[:, 1], soft, found[:, 3]], dim=1).tolist()
    assert order == sorted(order)
    counts = torch.zeros(plan.group_tiles.shape, dtype=torch.int64)
    counts.index_put_((found[:, 0], found[:, 1]), torch.ones(len(found), dtype=torch.int64), accumulate=True)
    used = 0
    for number, bounds in enumerate(plan.group_tiles.tolist()):
        assert bounds == sorted(bounds)
        assert bounds[0] == used
        used = bounds[-1]
        for segment, (start, end) in enumerate(pairwise(bounds)):
            assert (plan.tile_segments[start:end] == segment).all()
            count = int(counts[number, segment])
            assert end - start == -(-count // TILE)
            padding = slice(start * TILE + count, end * TILE)
            assert (plan.indices[padding] == -1).all()
            assert plan.weights is None or not plan.weights[padding].any()
    assert used == len(plan.tile_segments)
    assert len(plan.indices) == TILE * used


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_types_and_shapes(masks: Masks, kind: torch.dtype) -> None:
    weights = masks(9, 15).to(kind)
    plan = build_plan(weights)
    assert plan.indices.dtype == plan.tile_segments.dtype == plan.group_tiles.dtype == torch.int32
    assert plan.group_tiles.shape == (len(plan.group_tiles), len(weights) + 2)
    assert plan.mass.dtype == kind
    assert plan.shape == (9, 15)
    assert (plan.weights is None) == bool(((weights == 0) | (weights == 1)).all())
    parts = [plan.indices, plan.tile_segments, plan.group_tiles, plan.mass]
    if plan.weights is not None:
        assert plan.weights.dtype == kind
        assert plan.weights.shape == plan.indices.shape
        parts.append(plan.weights)
    assert all(part.is_contiguous() for part in parts)


def test_mass_is_the_sum_and_0_where_nothing_is_left() -> None:
    weights = soft_masks(3, 9, 15)
    weights[1] = 0
    assert build_plan(weights).mass.tolist() == pytest.approx(weights.sum(dim=(1, 2)).tolist())
    assert build_plan(weights).mass[1] == 0


def test_mass_is_summed_exactly() -> None:
    """A float32 sum of so many small weights would be off in the third digit."""
    plan = build_plan(torch.full((1, 2048, 2048), 0.1))
    assert float(plan.mass[0]) == pytest.approx(2048 * 2048 * float(torch.tensor(0.1)), rel=1e-7)


@pytest.mark.parametrize(("pixels", "tiles"), [(63, 1), (64, 1), (65, 2), (128, 2)])
def test_whole_tiles_have_no_padding(pixels: int, tiles: int) -> None:
    plan = build_plan(torch.ones(1, 1, pixels))
    assert plan.group_tiles.tolist() == [[0, tiles, tiles]]
    assert int((plan.indices < 0).sum()) == tiles * TILE - pixels


def test_two_segments_on_a_pixel_are_two_passes() -> None:
    weights = torch.tensor([[[1.0, 0.5, 0.0, 0.0]], [[0.0, 0.5, 1.0, 0.0]]])
    plan = build_plan(weights)
    assert plan.group_tiles.tolist() == [[0, 1, 2, 3], [3, 3, 4, 4]]
    assert plan.indices.view(-1, TILE)[:, :2].tolist() == [[0, 1], [2, -1], [3, -1], [1, -1]]
    assert plan.weights is not None
    assert plan.weights.view(-1, TILE)[:, :2].tolist() == [[1, 0.5], [1, 0], [0, 0], [0.5, 0]]
    assert plan.tile_segments.tolist() == [0, 1, 2, 1]


def test_masks_of_any_strides() -> None:
    weights = soft_masks(3, 9, 15)
    plan = build_plan(weights)
    for strided in (
        weights.transpose(1, 2).contiguous().transpose(1, 2),
        weights.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    ):
        other = build_plan(strided)
        for name in ("indices", "weights", "tile_segments", "group_tiles", "mass"):
            assert torch.equal(getattr(other, name), getattr(plan, name))
    assert torch.equal(
        build_plan(torch.ones(1, 1, 1).expand(1, 9, 15)).indices, build_plan(torch.ones(1, 9, 15)).indices
    )


def test_no_pixels() -> None:
    plan = build_plan(torch.zeros(2, 0, 5))
    assert plan.indices.numel() == 0
    assert plan.group_tiles.tolist() == [[0, 0, 0, 0]]
    assert plan.mass.tolist() == [0, 0]


def test_as_many_segments_as_are_supported() -> None:
    plan = build_plan(torch.full((MAX_SEGMENTS, 2, 3), 0.5))
    assert len(plan.group_tiles) == MAX_SEGMENTS == 256
    for masks in (hard_masks(257, 2, 3), torch.zeros(0, 2, 3)):
        with pytest.raises(ValueError, match=rf"{len(masks)} masks; 1 to 256 are supported"):
            build_plan(masks)


def test_more_pixels_than_an_index_can_say_are_refused() -> None:
    with pytest.raises(ValueError, match=r"65536x32768 have more than 2\^31 - 1 pixels"):
        build_plan(torch.ones(()).expand(1, 2**16, 2**15))


def test_masks_that_ask_for_a_gradient_are_refused() -> None:
    with pytest.raises(ValueError, match="masks have no gradient: detach them"):
        build_plan(torch.ones(1, 2, 3, requires_grad=True))
    scale = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="detach"):
        build_plan(torch.ones(1, 2, 3) * scale)
