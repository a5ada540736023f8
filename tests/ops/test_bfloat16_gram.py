"""The bfloat16 path of the masked Gram matrices' loss on the CPU, against float64 of the same features.

Where pixels lie as rows, a processor with a bfloat16 unit multiplies panels of 16 channels, 12 by 32 at a time, and two
pixels at once. `masked_gram` itself, and other layouts, are multiplied in float32 on every processor.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from intarsia_server import ops
from ops_cases import Shape, features, hard_masks, soft_masks
from ops_checks import check_gram_loss, plan_of, plan_tensors
from ops_dense import gram
from torch import Tensor

CPU = torch.device("cpu")
CHANNELS = (1, 3, 11, 12, 13, 16, 17, 31, 32, 33, 47, 48, 64, 70, 100, 129, 200)
SIZES = ((1, 2), (1, 3), (7, 9), (13, 11), (16, 24))
"""With odd numbers of pixels: the last one has no neighbour."""


def _shapes() -> Iterator[Shape]:
    for channels in CHANNELS:
        for height, width in SIZES:
            yield (1, channels, height, width)
    # More pixels than a panel holds, and so many that parts of a segment are added up.
    yield from ((2, 512, 17, 31), (1, 70, 61, 67), (1, 24, 150, 151))


def _error(x: Tensor, masks: Tensor) -> float:
    """Of the matrices, beside the sums of absolute products."""
    plan = plan_of(masks, x)
    channels, segments = x.shape[1], len(masks)
    targets, factors = plan.mass.new_zeros(segments, channels, channels), torch.ones_like(plan.mass)
    losses, matrices = torch.ops.intarsia.masked_gram_loss(x, *plan_tensors(plan), plan.mass, targets, factors, True)
    assert torch.equal(matrices, matrices.mT)
    torch.testing.assert_close(losses, matrices.square().sum(dim=(2, 3)), rtol=1e-4, atol=0)
    expected, _ = gram(x, masks)
    error = (matrices.double() - expected.value).abs() / expected.size.clamp_min(1e-30)
    return float(error.max())


def test_hard_masks_are_as_exact_as_float32() -> None:
    for shape in _shapes():
        x = features(shape, torch.bfloat16, "channels_last", device=CPU).detach()
        for segments in (1, 3, 16):
            masks = hard_masks(segments, *shape[2:], uncovered=0.1 * (segments > 1))
            assert _error(x, masks) < 1e-5, (shape, segments)


def test_soft_masks_split_one_side() -> None:
    for shape in _shapes():
        x = features(shape, torch.bfloat16, "channels_last", device=CPU).detach()
        for segments in (1, 3, 16):
            assert _error(x, soft_masks(segments, *shape[2:])) < 2.0**-15, (shape, segments)


def test_weights_of_one_round_nothing() -> None:
    """Of a feathered mask, which is 1 within."""
    x = features((1, 70, 13, 11), torch.bfloat16, "channels_last", device=CPU).detach()
    masks = torch.ones(2, 13, 11, dtype=torch.float64)
    masks[1, 0] = 0.3
    plan = plan_of(masks, x)
    assert plan.weights is not None
    expected, _ = gram(x, masks)
    targets = plan.mass.new_zeros(2, 70, 70)
    _, matrices = torch.ops.intarsia.masked_gram_loss(
        x, *plan_tensors(plan), plan.mass, targets, torch.ones_like(plan.mass), True
    )
    error = (matrices[:, 0].double() - expected.value[:, 0]).abs() / expected.size[:, 0]
    assert float(error.max()) < 1e-5


def test_pixels_of_no_segment_are_not_read() -> None:
    x = features((1, 33, 9, 9), torch.bfloat16, "channels_last", device=CPU).detach()
    masks = hard_masks(3, 9, 9, uncovered=0.4)
    x[:, :, ~masks.any(dim=0)] = torch.nan
    plan = plan_of(masks, x)
    losses = ops.masked_gram_loss(x, plan, plan.mass.new_zeros(3, 33, 33), torch.ones_like(plan.mass))
    assert losses.isfinite().all()


def test_other_layouts_round_nothing() -> None:
    """As does any layout where there is no such unit."""
    for shape in ((1, 33, 9, 9), (2, 130, 13, 11)):
        x = features(shape, torch.bfloat16, "contiguous", device=CPU)
        check_gram_loss(x, soft_masks(3, *shape[2:]), exact_weights=True)


def test_gradient_of_segments_side_by_side() -> None:
    """Pixels that lie side by side are multiplied where they are: here stripes, some within a row and some of many."""
    for shape in ((1, 33, 9, 15), (2, 130, 13, 11), (1, 64, 64, 40)):
        height, width = shape[2:]
        stripes = torch.arange(height * width).view(height, width) * 3 // (height * width)
        columns = torch.arange(width).expand(height, width) * 3 // width
        for labels in (stripes, columns):
            masks = (labels == torch.arange(3)[:, None, None]).double()
            for layout in ("channels_last", "channels_last offset", "contiguous"):
                check_gram_loss(features(shape, torch.bfloat16, layout, device=CPU), masks)
