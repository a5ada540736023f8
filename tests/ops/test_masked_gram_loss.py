"""The fused distance between masked Gram matrices and targets, against float64."""

from __future__ import annotations

import torch
from intarsia_server import ops
from ops_cases import Masks, Shape, features, hard_masks, random, soft_masks
from ops_checks import check_gram_loss, matmul_precision, plan_of, targets_of


def test_every_layout_and_shape(device: torch.device, dtype: torch.dtype, layout: str, shape: Shape) -> None:
    check_gram_loss(features(shape, dtype, layout, device=device), soft_masks(3, *shape[2:]))
    check_gram_loss(features(shape, dtype, layout, device=device), hard_masks(2, *shape[2:], uncovered=0.2))


def test_every_kind_of_masks(device: torch.device, dtype: torch.dtype, masks: Masks) -> None:
    for layout in ("contiguous", "channels_last"):
        check_gram_loss(features((2, 6, 14, 15), dtype, layout, device=device), masks(14, 15))


def test_many_channels(device: torch.device, dtype: torch.dtype) -> None:
    for layout in ("contiguous", "channels_last offset"):
        check_gram_loss(features((1, 512, 23, 31), dtype, layout, device=device), soft_masks(2, 23, 31))


def test_precision(device: torch.device, layout: str, precision: str) -> None:
    with matmul_precision(precision):
        check_gram_loss(features((1, 130, 11, 13), torch.float32, layout, device=device), soft_masks(3, 11, 13))


def test_gradcheck_in_float64(layout: str, masks: Masks) -> None:
    weights = masks(3, 4)[:5]
    x = features((2, 3, 3, 4), torch.float64, layout, device=torch.device("cpu"))
    targets, factors = targets_of(weights, 3, x)
    assert torch.autograd.gradcheck(lambda y: ops.masked_gram_loss(y, plan_of(weights, y), targets, factors), x)


def test_is_what_masked_gram_composes_to(device: torch.device, dtype: torch.dtype) -> None:
    x = features((2, 20, 9, 10), dtype, device=device)
    plan = plan_of(soft_masks(3, 9, 10), x)
    targets, factors = targets_of(torch.empty(3), 20, plan.mass)
    fused = ops.masked_gram_loss(x, plan, targets, factors)
    composed = (ops.masked_gram(x, plan).gram - targets).square().sum(dim=(2, 3)) * factors
    torch.testing.assert_close(fused, composed, rtol=1e-4, atol=1e-4)


def test_no_distance_no_loss_and_no_gradient(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 70, 9, 10), dtype, device=device)
    plan = plan_of(soft_masks(3, 9, 10), x)
    own = ops.masked_gram(x, plan).gram[0].detach()
    losses = ops.masked_gram_loss(x, plan, own, torch.ones_like(plan.mass))
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert float((losses.detach() / own.square().sum(dim=(1, 2))).max()) < 1e-10
    assert float(gradient.abs().max()) < 1e-4


def test_factor_0_drops_a_segment(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 5, 9, 10), dtype, device=device)
    masks = hard_masks(2, 9, 10)
    plan = plan_of(masks, x)
    targets, factors = torch.ones(2, 5, 5).to(plan.mass), torch.tensor([0.0, 1.0]).to(plan.mass)
    losses = ops.masked_gram_loss(x, plan, targets, factors)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert losses[0, 0] == 0
    assert losses[0, 1] > 0
    assert not gradient[:, :, masks[0].bool()].any()
    assert gradient[:, :, masks[1].bool()].any()


def test_empty_segment_is_as_far_as_its_target_and_has_no_gradient(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 5, 9, 10), dtype, device=device)
    plan = plan_of(torch.zeros(1, 9, 10), x)
    losses = ops.masked_gram_loss(x, plan, torch.ones(1, 5, 5).to(plan.mass), torch.full((1,), 2.0).to(plan.mass))
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert losses.tolist() == [[50.0]]
    assert not gradient.any()


def test_upstream_gradient_of_any_strides(device: torch.device, dtype: torch.dtype) -> None:
    """Autograd hands it on as the operations behind left it."""
    x = features((2, 5, 6, 7), dtype, device=device)
    plan = plan_of(soft_masks(3, 6, 7), x)
    losses = ops.masked_gram_loss(x, plan, *targets_of(torch.empty(3), 5, plan.mass))
    upstream = random(2, 3).to(losses)
    (expected,) = torch.autograd.grad(losses, x, upstream, retain_graph=True)
    (transposed,) = torch.autograd.grad(losses, x, upstream.T.contiguous().T, retain_graph=True)
    (expanded,) = torch.autograd.grad(losses.sum(), x, retain_graph=True)
    (ones,) = torch.autograd.grad(losses, x, torch.ones_like(losses))
    assert torch.equal(transposed, expected)
    assert torch.equal(expanded, ones)


def test_targets_and_factors_of_any_strides(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 5, 6, 7), dtype, device=device)
    plan = plan_of(soft_masks(3, 6, 7), x)
    targets, factors = targets_of(torch.empty(3), 5, plan.mass)
    strided = targets.permute(2, 1, 0).contiguous().permute(2, 1, 0), factors.repeat(2, 1).T.contiguous()[:, 0]
    assert not strided[0].is_contiguous()
    assert not strided[1].is_contiguous()
    assert torch.equal(ops.masked_gram_loss(x, plan, *strided), ops.masked_gram_loss(x, plan, targets, factors))
