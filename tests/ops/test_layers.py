"""What stands between the encoder's convolutions, against float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ops_dense
import torch
from intarsia_server import ops
from ops_cases import Shape, accumulator, features, laid_out, random, soft_masks
from ops_checks import assert_near, check_convolution_input, check_feature_loss, check_relu_backward
from torch import Tensor

BOTH = ("channels_last", "channels_last offset")
MAPS: tuple[Shape, ...] = (
    (1, 3, 2, 2),
    (2, 5, 3, 2),
    (1, 64, 2, 5),
    (2, 20, 7, 9),
    (1, 16, 33, 35),
    (3, 8, 6, 6),
    (1, 512, 3, 3),
)
"""With odd sides, which pooling cuts, and pictures of which it leaves one pixel."""


def _switches(shape: Sequence[int]) -> Iterator[tuple[bool, bool]]:
    """Pooled, padded."""
    for pool in (False, True):
        for pad in (False, True):
            if not pool or min(shape[2:]) > 1:
                yield pool, pad


def _maps(shape: Shape, dtype: torch.dtype, device: torch.device) -> Iterator[Tensor]:
    for size in (shape, *MAPS):
        for layout in BOTH:
            yield features(size, dtype, layout, device=device).detach()


def test_convolution_input(device: torch.device, dtype: torch.dtype, shape: Shape) -> None:
    for x in _maps(shape, dtype, device):
        for pool, pad in _switches(x.shape):
            check_convolution_input(x, pool=pool, pad=pad)


def test_relu_backward(device: torch.device, dtype: torch.dtype, shape: Shape) -> None:
    """It is the gradient that autograd finds."""
    for x in _maps(shape, dtype, device):
        for pooled, padded in _switches(x.shape):
            check_relu_backward(x, pooled=pooled, padded=padded)


def test_feature_loss(device: torch.device, dtype: torch.dtype, shape: Shape) -> None:
    for x in _maps(shape, dtype, device):
        check_feature_loss(x, None)
        check_feature_loss(x, soft_masks(1, *x.shape[2:])[0])


def test_a_relu_lets_nothing_through_at_0(device: torch.device, dtype: torch.dtype) -> None:
    x = features((2, 20, 7, 9), dtype, "channels_last", device=device).detach().relu()
    gradient = ops.convolution_input(torch.ones_like(x), pool=True, pad=True)
    result = ops.relu_backward(x, gradient, pooled=True, padded=True, added=torch.ones_like(x))
    assert not result[x == 0].any()
    assert result[x > 0].all()


def test_odd_last_row_and_column_have_the_added_gradient_alone(device: torch.device, dtype: torch.dtype) -> None:
    x = laid_out(torch.ones(1, 8, 5, 7, device=device, dtype=dtype), "channels_last")
    gradient = laid_out(random(1, 8, 4, 5).to(x), "channels_last")
    added = laid_out(random(1, 8, 5, 7).to(x), "channels_last")
    with_added = ops.relu_backward(x, gradient, pooled=True, padded=True, added=added)
    alone = ops.relu_backward(x, gradient, pooled=True, padded=True, added=None)
    for line in ((..., -1, slice(None)), (..., slice(None), -1)):
        assert torch.equal(with_added[line], added[line])
        assert not alone[line].any()


def test_fold_margin(device: torch.device) -> None:
    for height, width in ((1, 1), (1, 5), (4, 1), (3, 6)):
        gradient = random(2, 3, height + 2, width + 2).to(device)
        ones = torch.ones(2, 3, height, width, device=device)
        expected = ops_dense.relu_backward(ones, gradient, None, pooled=False, padded=True)
        before = gradient.clone()
        assert_near(ops.fold_margin(gradient), expected, 2.0**-46, "gradient")
        assert torch.equal(gradient, before)


def test_weight_of_ones_is_none(device: torch.device, dtype: torch.dtype) -> None:
    x, target = (laid_out(random(2, 20, 9, 15, seed=s).to(device, dtype), "channels_last") for s in (0, 1))
    ones = torch.ones(9, 15, dtype=accumulator(dtype), device=device)
    weighted, gradient = ops.feature_loss(x, target, ones, 0.3)
    plain, plain_gradient = ops.feature_loss(x, target, None, 0.3)
    torch.testing.assert_close(weighted, plain, rtol=1e-5, atol=0)
    assert torch.equal(gradient, plain_gradient)


def test_no_distance_no_loss(device: torch.device, dtype: torch.dtype) -> None:
    x = features((2, 20, 9, 15), dtype, "channels_last", device=device).detach()
    loss, gradient = ops.feature_loss(x, x.clone(memory_format=torch.preserve_format), None, 1e5)
    assert float(loss) == 0
    assert not gradient.any()


def test_large_maps_keep_their_accuracy(device: torch.device, dtype: torch.dtype) -> None:
    """A million terms, all of one sign."""
    x = features((1, 64, 120, 141), dtype, "channels_last", device=device).detach()
    check_feature_loss(x, None)
    check_feature_loss(x, soft_masks(1, 120, 141)[0])


def test_empty_maps(device: torch.device, dtype: torch.dtype) -> None:
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5)):
        x = features(shape, dtype, "channels_last", device=device).detach()
        for pool, pad in _switches(shape):
            inputs = ops.convolution_input(x, pool=pool, pad=pad)
            assert inputs.shape == (*shape[:2], 4 // (1 + pool) + 2 * pad, 5 // (1 + pool) + 2 * pad)
            assert ops.relu_backward(x, inputs, pooled=pool, padded=pad, added=x).shape == shape
        loss, gradient = ops.feature_loss(x, x, None, 1.0)
        assert float(loss) == 0
        assert gradient.shape == shape
    x = features((2, 3, 0, 5), dtype, "channels_last", device=device).detach()
    assert float(ops.feature_loss(x, x, None, 1.0)[0]) == 0
