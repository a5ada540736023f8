"""Masked Gram matrices: the moments of a feature map under each segment's mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from intarsia_server.ops.plan import MaskPlan


class MaskedGram(NamedTuple):
    """What `masked_gram` returns, float32 (float64 for float64 features).

    Attributes:
        gram: [N, R, C, C], symmetric.
        mean: [N, R, C].
        mass: [R].
    """

    gram: Tensor
    mean: Tensor
    mass: Tensor


def masked_gram(features: Tensor, plan: MaskPlan) -> MaskedGram:
    """G_r = sum_p m_r(p) f_p f_p^T / sum_p m_r(p) and mean_r = sum_p m_r(p) f_p / sum_p m_r(p) for every segment r.

    The weight is m, not m^2: a soft partition of unity then keeps its total energy. On CUDA, float32 is rounded to TF32
    where `torch.get_float32_matmul_precision()` allows that for any matrix product.

    Args:
        features: [N, C, H, W], float32, bfloat16, float16 (CUDA) or float64 (CPU); NCHW and channels_last are read as
            they lie.
        plan: of masks [R, H, W] of the same H and W, on the same device.

    Returns:
        Moments and masses; zeros for a segment without weight. Differentiable by the features, once.

    Raises:
        ValueError: the plan was made for another size or type.
    """
    _check(features, plan)
    gram, mean = torch.ops.intarsia.masked_gram(features, *_tensors(plan), plan.mass, _exact())
    return MaskedGram(gram, mean, plan.mass.to(gram.dtype))


def masked_gram_loss(features: Tensor, plan: MaskPlan, targets: Tensor, factors: Tensor) -> Tensor:
    """factors_r |G_r - A_r|_F^2 for every segment r, G_r as in `masked_gram`.

    One pass forward, one backward; the matrices between them are never symmetrised, scaled or copied.

    Args:
        features: as in `masked_gram`.
        plan: likewise.
        targets: symmetric A [R, C, C], float32 (float64 for float64 features).
        factors: [R], the same type.

    Returns:
        [N, R]. Differentiable by the features, once.

    Raises:
        ValueError: plan or targets were made for another size or type.
    """
    _check_loss(features, plan, targets, factors)
    losses: Tensor
    losses, _ = torch.ops.intarsia.masked_gram_loss(
        features, *_tensors(plan), plan.mass, targets.contiguous(), factors.contiguous(), _exact()
    )
    return losses


def masked_gram_loss_gradient(
    features: Tensor, plan: MaskPlan, targets: Tensor, factors: Tensor, scales: Tensor
) -> tuple[Tensor, Tensor]:
    """`masked_gram_loss` [N, R] and the gradient of their sum by the features, like these; without autograd.

    `scales` [R] are `loss_scales` of the factors and the plan's mass: they do not change from call to call.
    """
    _check_loss(features, plan, targets, factors)
    losses, difference = torch.ops.intarsia.masked_gram_loss(
        features, *_tensors(plan), plan.mass, targets.contiguous(), factors.contiguous(), _exact()
    )
    return losses, masked_gram_gradient(features, plan, difference, scales)


def masked_gram_gradient(features: Tensor, plan: MaskPlan, differences: Tensor, scales: Tensor) -> Tensor:
    """sum_r m_r(p) scales_r D_r f_p, the gradient of Gram losses by the features, like these; without autograd.

    Args:
        features: as in `masked_gram`; they may be those of a part of what the differences are of.
        plan: of the segments' masks there.
        differences: G - A [N, R, C, C], symmetric, of the features' sums' type.
        scales: [R], `loss_scales` of the factors and the mass that G has been divided by.
    """
    _check(features, plan)
    scales = scales.expand(len(features), -1).contiguous()
    gradient: Tensor = torch.ops.intarsia.masked_gram_backward(
        features, *_tensors(plan), differences.contiguous(), True, scales, None, _exact()
    )
    return gradient


def _check_loss(features: Tensor, plan: MaskPlan, targets: Tensor, factors: Tensor) -> None:
    _check(features, plan)
    expected = (len(plan.mass), features.shape[1], features.shape[1])
    if targets.shape != expected or factors.shape != expected[:1]:
        raise ValueError(f"targets are {tuple(targets.shape)}, factors {tuple(factors.shape)}; {expected} is needed")


def _check(features: Tensor, plan: MaskPlan) -> None:
    if plan.shape != features.shape[2:]:
        raise ValueError(f"plan is for {plan.shape}, features are {tuple(features.shape[2:])}")
    sums = torch.promote_types(features.dtype, torch.float32)
    if plan.mass.dtype != sums:
        raise ValueError(f"plan is of {plan.mass.dtype} masks, {features.dtype} features need {sums}")


def _tensors(plan: MaskPlan) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    return plan.indices, plan.weights, plan.tile_segments, plan.group_tiles


def _exact() -> bool:
    return torch.get_float32_matmul_precision() == "highest"


# The compiler cannot read the setting; it is taken as it was when compiling. This mark is all that
# torch.compiler.assume_constant_result leaves, but for an import of the compiler, which takes seconds at every start.
_exact._dynamo_marked_constant = True  # type: ignore[attr-defined]
