"""Masked Gram matrices: the second moments of a feature map, one matrix per segment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


@dataclass(frozen=True)
class MaskPlan:
    """Where R masks of one layer are not zero, made once per mask and layer, never in the step.

    Attributes:
        indices: per segment, the row-major pixel indices with a weight, int64 [n_r].
        weights: per segment, the weights there, float32 [n_r]; None when every weight is 1.
        mass: sum of each segment's weights, float32 [R]; 0 for a segment that has none left at this layer.
        shape: (H, W) of the layer.
    """

    indices: tuple[Tensor, ...]
    weights: tuple[Tensor | None, ...]
    mass: Tensor
    shape: tuple[int, int]


class MaskedGram(NamedTuple):
    """What `masked_gram` returns: `gram` [N, R, C, C] and `mass` [R], both float32 (float64 for float64 features)."""

    gram: Tensor
    mass: Tensor


def build_plan(masks: Tensor) -> MaskPlan:
    """Lists the non-zero pixels of masks [R, H, W] with values in 0..1."""
    segments, height, width = masks.shape
    flat = masks.reshape(segments, height * width)
    indices: list[Tensor] = []
    weights: list[Tensor | None] = []
    for row in flat:
        index = row.nonzero().squeeze(1)
        weight = row[index]
        indices.append(index)
        weights.append(None if bool((weight == 1).all()) else weight)
    return MaskPlan(tuple(indices), tuple(weights), flat.sum(dim=1), (height, width))


def masked_gram(features: Tensor, plan: MaskPlan) -> MaskedGram:
    """G_r = sum_p m_r(p) f_p f_p^T / sum_p m_r(p) for every segment r.

    The weight is m, not m^2: a soft partition of unity then keeps its total energy.

    Args:
        features: [N, C, H, W], any strides; channels_last is read as it lies.
        plan: of masks [R, H, W] of the same H and W.

    Returns:
        Symmetric matrices and masses; zeros for a segment without weight.

    Raises:
        ValueError: the plan was made for another size.
    """
    batch, channels, height, width = features.shape
    if plan.shape != (height, width):
        raise ValueError(f"plan is for {plan.shape}, features are {(height, width)}")
    dtype = torch.promote_types(features.dtype, torch.float32)
    rows = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels).to(dtype)
    gram: Tensor = _MaskedGram.apply(rows, plan)  # type: ignore[no-untyped-call]  # torch has no types for it
    return MaskedGram(gram, plan.mass.to(dtype))


class _MaskedGram(torch.autograd.Function):
    """Knows that the product is symmetric: the backward is one matrix product per segment where autograd needs two.

    dL/df_p = sum_r m_r(p) / mass_r (D_r + D_r^T) f_p, with D_r = dL/dG_r.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, plan: MaskPlan) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.plan = plan  # type: ignore[attr-defined]  # torch documents attributes on ctx, its types do not know them
        grams = []
        for index, weight, mass in _segments(plan, rows.dtype):
            selected = _gather(rows, index)
            weighted = selected if weight is None else selected * weight
            grams.append(weighted.transpose(1, 2) @ selected / mass)
        return torch.stack(grams, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        symmetric = grad + grad.transpose(2, 3)
        result: Tensor | None = None
        for number, (index, weight, mass) in enumerate(_segments(ctx.plan, rows.dtype)):
            part = _gather(rows, index) @ (symmetric[:, number] / mass)
            if weight is not None:
                part *= weight
            if index is None and result is None:
                result = part
                continue
            result = torch.zeros_like(rows) if result is None else result
            if index is None:
                result += part
            else:
                result.index_add_(1, index, part)
        return torch.zeros_like(rows) if result is None else result, None


def _segments(plan: MaskPlan, dtype: torch.dtype) -> Iterator[tuple[Tensor | None, Tensor | None, Tensor]]:
    """Per segment: pixel indices (None: every pixel), weights as a column (None: all 1), and mass, never 0."""
    height, width = plan.shape
    masses = plan.mass.to(dtype).clamp_min(torch.finfo(dtype).tiny)
    for index, weight, mass in zip(plan.indices, plan.weights, masses, strict=True):
        column = None if weight is None else weight.to(dtype)[:, None]
        yield None if len(index) == height * width else index, column, mass


def _gather(rows: Tensor, index: Tensor | None) -> Tensor:
    """The segment's rows; gathering costs its own pixels, a product with a dense mask would cost all of them."""
    return rows if index is None else rows.index_select(1, index)
