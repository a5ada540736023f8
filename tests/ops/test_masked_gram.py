"""Masked Gram matrices, their means and gradients, against float64."""

from __future__ import annotations

import ops_dense
import torch
from intarsia_server import ops
from intarsia_server.ops import MaskPlan
from ops_cases import Masks, Shape, accumulator, features, hard_masks, random, soft_masks
from ops_checks import assert_near, check_gram, matmul_precision, plan_of, plan_tensors
from torch import Tensor


def test_every_layout_and_shape(device: torch.device, dtype: torch.dtype, layout: str, shape: Shape) -> None:
    check_gram(features(shape, dtype, layout, device=device), soft_masks(3, *shape[2:]))
    check_gram(features(shape, dtype, layout, device=device), hard_masks(3, *shape[2:], uncovered=0.2))


def test_every_kind_of_masks(device: torch.device, dtype: torch.dtype, masks: Masks) -> None:
    for layout in ("contiguous", "channels_last"):
        check_gram(features((2, 6, 14, 15), dtype, layout, device=device), masks(14, 15))


def test_many_channels(device: torch.device, dtype: torch.dtype) -> None:
    for layout in ("contiguous", "channels_last offset"):
        check_gram(features((1, 512, 23, 31), dtype, layout, device=device), soft_masks(2, 23, 31))


def test_precision(device: torch.device, layout: str, precision: str) -> None:
    with matmul_precision(precision):
        check_gram(features((1, 130, 11, 13), torch.float32, layout, device=device), soft_masks(3, 11, 13))


def test_highest_precision_is_that_of_float32(device: torch.device, layout: str) -> None:
    """With one pixel a segment nothing averages out: TF32 would be 2^-11 off."""
    x = features((1, 70, 9, 8), torch.float32, layout, device=device)
    masks = torch.eye(72).view(72, 9, 8).double()
    with matmul_precision("highest"):
        gram, mean, _ = ops.masked_gram(x, plan_of(masks, x))
        (gradient,) = torch.autograd.grad(gram.sum(), x)
    expected, expected_mean = ops_dense.gram(x, masks)
    assert_near(gram, expected, 2.0**-19, "gram")
    assert_near(mean, expected_mean, 2.0**-22, "mean")
    ones = torch.ones(1, 72, 70, 70)
    assert_near(gradient, ops_dense.gram_gradient(x, masks, ones, None), 2.0**-18, "gradient")


def test_gradcheck_in_float64(layout: str, masks: Masks) -> None:
    """By finite differences, and so without the formula that the other tests trust."""
    weights = masks(3, 4)[:5]
    x = features((2, 3, 3, 4), torch.float64, layout, device=torch.device("cpu"))
    assert torch.autograd.gradcheck(lambda y: ops.masked_gram(y, plan_of(weights, y))[:2], x)


def test_empty_segment_gives_zeros_and_no_gradient(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 4, 6, 7), dtype, device=device)
    gram, mean, mass = ops.masked_gram(x, plan_of(torch.zeros(2, 6, 7), x))
    (gradient,) = torch.autograd.grad(gram.square().sum() + gram.sum() + mean.sum(), x)
    assert mass.tolist() == [0, 0]
    assert not gram.any()
    assert not mean.any()
    assert not gradient.any()


def test_infinite_gradient_stops_at_an_empty_segment(device: torch.device, dtype: torch.dtype) -> None:
    """As |G|^(1/2) has at G = 0."""
    x = features((1, 4, 6, 7), dtype, device=device)
    gram = ops.masked_gram(x, plan_of(torch.stack([torch.ones(6, 7), torch.zeros(6, 7)]), x)).gram
    upstream = torch.ones_like(gram)
    upstream[:, 1] = torch.inf
    (gradient,) = torch.autograd.grad(gram, x, upstream)
    assert gradient.isfinite().all()
    assert gradient.any()


def test_upstream_gradients_of_any_strides(device: torch.device, dtype: torch.dtype) -> None:
    """Autograd hands them on as the operations behind left them."""
    x = features((2, 5, 6, 7), dtype, device=device)
    masks = soft_masks(3, 6, 7)
    gram, mean, _ = ops.masked_gram(x, plan_of(masks, x))
    by_gram, by_mean = random(2, 3, 5, 5).to(gram), random(2, 3, 5).to(mean)
    expected = torch.autograd.grad([gram, mean], x, [by_gram, by_mean], retain_graph=True)[0]
    for order in ((0, 1, 2), (0, 2, 1), (2, 1, 0), (1, 0, 2)):
        back = [order.index(i) for i in range(3)]
        strided = [
            by_gram.permute(*order, 3).contiguous().permute(*back, 3),
            by_mean.permute(order).contiguous().permute(back),
        ]
        assert torch.equal(torch.autograd.grad([gram, mean], x, strided, retain_graph=True)[0], expected)
    total = torch.autograd.grad([gram.sum(), mean.sum()], x, retain_graph=True)[0]
    assert torch.equal(total, torch.autograd.grad([gram, mean], x, [torch.ones_like(gram), torch.ones_like(mean)])[0])


def test_pixels_outside_do_not_matter(device: torch.device, dtype: torch.dtype, layout: str) -> None:
    """NaN stays in its own segment, and in none if it has none."""
    shape = (2, 66, 9, 17)
    masks = hard_masks(3, 9, 17, uncovered=0.3)
    owner = (masks[1] + (1 - masks.sum(dim=0))).bool()
    clean = features(shape, dtype, layout, device=device)
    spoilt = clean.detach().clone().masked_fill_(owner.to(device), torch.nan).requires_grad_()
    results = []
    for x in (clean, spoilt):
        gram, mean, _ = ops.masked_gram(x, plan_of(masks, x))
        (gradient,) = torch.autograd.grad(gram[:, [0, 2]].sum() + mean[:, [0, 2]].sum(), x)
        results.append((gram, mean, gradient))
    for got, wanted in zip(results[1][:2], results[0][:2], strict=True):
        assert torch.equal(got[:, [0, 2]], wanted[:, [0, 2]])
        assert got[:, 1].isnan().all()
    other = masks[[0, 2]].sum(dim=0).bool()
    assert torch.equal(results[1][2][:, :, other], results[0][2][:, :, other])
    assert not results[1][2][:, :, (masks.sum(dim=0) == 0)].any()


def test_sums_are_float32_whatever_comes_in(device: torch.device, dtype: torch.dtype) -> None:
    """A bfloat16 sum over so many pixels would stop growing at a few hundred."""
    x = (random(1, 3, 128, 128).abs() + 1).to(device, dtype).requires_grad_()
    check_gram(x, hard_masks(2, 128, 128))


def test_weight_is_m_and_not_its_square(device: torch.device, dtype: torch.dtype) -> None:
    """Two half masks that overlap everywhere have, each, the whole's Gram matrix."""
    x = features((1, 4, 6, 7), dtype, device=device)
    halves = ops.masked_gram(x, plan_of(torch.full((2, 6, 7), 0.5), x))
    whole = ops.masked_gram(x, plan_of(torch.ones(1, 6, 7), x))
    assert torch.equal(halves.mass, whole.mass.expand(2) / 2)
    for half in halves.gram.unbind(1):
        torch.testing.assert_close(half, whole.gram[:, 0], rtol=1e-3, atol=1e-4)


def test_no_gradient_is_made_where_none_is_asked_for(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 4, 6, 7), dtype, device=device)
    plan = plan_of(torch.ones(1, 6, 7), x)
    with torch.no_grad():
        assert not ops.masked_gram(x, plan).gram.requires_grad
    with torch.inference_mode():
        assert torch.equal(ops.masked_gram(x, plan).gram, ops.masked_gram(x.detach(), plan).gram)


def test_empty_features(device: torch.device, dtype: torch.dtype) -> None:
    """No picture, no channel, no pixel."""
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
        x = features(shape, dtype, device=device)
        gram, mean, _ = ops.masked_gram(x, plan_of(torch.ones(2, *shape[2:]), x))
        (gradient,) = torch.autograd.grad(gram.sum() + mean.sum(), x)
        assert gram.shape == (shape[0], 2, shape[1], shape[1])
        assert mean.shape == (shape[0], 2, shape[1])
        assert not gram.any()
        assert not mean.any()
        assert gradient.shape == shape


def _few_pixels(pixels: Tensor, shape: tuple[int, int]) -> MaskPlan:
    """The plan of one hard segment with at most 64 pixels, whose other pixels no one looks at."""
    padding = torch.full((64 - len(pixels),), -1, dtype=torch.int32, device=pixels.device)
    return MaskPlan(
        indices=torch.cat([pixels.to(torch.int32), padding]),
        weights=None,
        tile_segments=torch.zeros(1, dtype=torch.int32, device=pixels.device),
        group_tiles=torch.tensor([[0, 1, 1]], dtype=torch.int32, device=pixels.device),
        mass=torch.full((1,), float(len(pixels)), device=pixels.device),
        shape=shape,
    )


def test_more_than_2_31_values(device: torch.device) -> None:
    """4.3 GB each of features and gradient, of which a CPU only backs the few pages that are touched."""
    height, width, channels = 2**13, 2**12 + 1, 64
    last = height * width - 1
    pixels = torch.tensor([0, 1, width, last - 70, last - 1, last], device=device)
    values = random(1, channels, len(pixels)).to(device, torch.bfloat16)
    for channels_last in (False, True):
        storage = torch.empty(channels * height * width, dtype=torch.bfloat16, device=device)
        assert storage.numel() > 2**31
        shape, order = (
            ((1, height, width, channels), (0, 3, 1, 2)) if channels_last else ((1, channels, height, width), None)
        )
        x = storage.view(shape) if order is None else storage.view(shape).permute(order)
        x[:, :, pixels // width, pixels % width] = values
        plan = _few_pixels(pixels, (height, width))
        gram, mean, _ = ops.masked_gram(x, plan)
        small = values[:, :, None].requires_grad_()
        masks = torch.ones(1, 1, len(pixels), dtype=torch.float64)
        expected_gram, expected_mean = ops_dense.gram(small, masks)
        assert_near(gram, expected_gram, 2.0**-14, "gram")
        assert_near(mean, expected_mean, 2.0**-14, "mean")
        matrices, scales = torch.ones_like(gram), torch.ones(1, 1, device=device)
        gradient = torch.ops.intarsia.masked_gram_backward(x, *plan_tensors(plan), matrices, True, scales, None, True)
        got = gradient[:, :, pixels // width, pixels % width][:, :, None]
        ones = torch.full_like(gram, len(pixels) / 2)
        assert_near(got, ops_dense.gram_gradient(small, masks, ones, None), 2.0**-5, "gradient")
        del storage, x, gradient


def test_means_alone_need_no_matrices(device: torch.device, dtype: torch.dtype) -> None:
    """Their gradient is m / mass in every channel."""
    x = features((1, 3, 6, 7), dtype, device=device)
    masks = hard_masks(2, 6, 7)
    (gradient,) = torch.autograd.grad(ops.masked_gram(x, plan_of(masks, x)).mean.sum(), x)
    expected = (masks / masks.sum(dim=(1, 2), keepdim=True)).sum(dim=0).to(device, accumulator(dtype))
    torch.testing.assert_close(gradient, expected.expand(1, 3, 6, 7).to(dtype))
