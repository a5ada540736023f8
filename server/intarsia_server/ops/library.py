"""The torch library `intarsia`: schemas, fake kernels, autograd formulas, and which kernels serve them.

Plain torch (`fallback`) serves every device; the compiled extension, where it was built, takes over the CPU and CUDA
keys. All that stands above a kernel is written once, here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from intarsia_server.ops import fallback
from intarsia_server.ops.fallback import memory_format

_PLAN = "Tensor indices, Tensor? weights, Tensor tile_segments, Tensor group_tiles"

SCHEMAS = {
    "masked_gram": f"(Tensor features, {_PLAN}, Tensor mass, bool exact) -> (Tensor gram, Tensor mean)",
    "masked_gram_loss": (
        f"(Tensor features, {_PLAN}, Tensor mass, Tensor targets, Tensor factors, bool exact)"
        " -> (Tensor losses, Tensor difference)"
    ),
    "masked_gram_backward": (
        f"(Tensor features, {_PLAN}, Tensor matrices, bool symmetric, Tensor scales, Tensor? mean_gradient, bool exact)"
        " -> Tensor"
    ),
    "convolution_input": "(Tensor features, bool pool, bool pad) -> Tensor",
    "relu_backward": "(Tensor output, Tensor gradient, bool pooled, bool padded, Tensor? added) -> Tensor",
    "feature_loss": (
        "(Tensor features, Tensor target, Tensor? weight, float factor) -> (Tensor loss, Tensor gradient)"
    ),
    "masked_tv": "(Tensor image, Tensor? weight, bool product) -> (Tensor loss, Tensor gradient)",
}
"""Plan arguments are `MaskPlan`'s; `exact` asks for float32's full precision where tensor cores would round to TF32.

masked_gram: gram [N, R, C, C], sum_p m f f^T / mass; mean [N, R, C], sum_p m f / mass; zeros where mass is 0.
masked_gram_loss: losses [N, R], factors_r |G_r - A_r|_F^2 for targets A [R, C, C]; difference [N, R, C, C], G - A.
masked_gram_backward: sum_r m_r(p) (scales[n, r] M_nr f_p + mean_gradient[n, r]), as features lie; M_nr is
matrices[n, r], which are symmetric, or else matrices[n, r] plus its transpose.
convolution_input, relu_backward, feature_loss: as the functions of the same name in `layers`; autograd is refused.
masked_tv: loss, a scalar, and gradient, d loss / d image.
"""

_LIBRARY = torch.library.Library("intarsia", "DEF")
for _name, _schema in SCHEMAS.items():
    _LIBRARY.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, getattr(fallback, _name), "CompositeExplicitAutograd")


def _accumulator(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


@torch.library.register_fake("intarsia::masked_gram")
def _(features: Tensor, *plan: Any) -> tuple[Tensor, Tensor]:
    batch, channels = features.shape[:2]
    segments = plan[4].shape[0]
    dtype = _accumulator(features)
    return (
        features.new_empty(batch, segments, channels, channels, dtype=dtype),
        features.new_empty(batch, segments, channels, dtype=dtype),
    )


@torch.library.register_fake("intarsia::masked_gram_loss")
def _(features: Tensor, *plan: Any) -> tuple[Tensor, Tensor]:
    batch, channels = features.shape[:2]
    segments = plan[4].shape[0]
    dtype = _accumulator(features)
    return (
        features.new_empty(batch, segments, dtype=dtype),
        features.new_empty(batch, segments, channels, channels, dtype=dtype),
    )


@torch.library.register_fake("intarsia::masked_gram_backward")
def _(features: Tensor, *rest: Any) -> Tensor:
    del rest
    return torch.empty_like(features, memory_format=memory_format(features))


def _empty_map(like: Tensor, height: int, width: int) -> Tensor:
    """[N, C, height, width], channels_last."""
    return like.new_empty(like.shape[0], height, width, like.shape[1]).permute(0, 3, 1, 2)


@torch.library.register_fake("intarsia::convolution_input")
def _(features: Tensor, pool: bool, pad: bool) -> Tensor:
    height, width = (side // (2 if pool else 1) + (2 if pad else 0) for side in features.shape[2:])
    return _empty_map(features, height, width)


@torch.library.register_fake("intarsia::relu_backward")
def _(output: Tensor, *rest: Any) -> Tensor:
    del rest
    return _empty_map(output, *output.shape[2:])


@torch.library.register_fake("intarsia::feature_loss")
def _(features: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    del rest
    return features.new_empty((), dtype=_accumulator(features)), _empty_map(features, *features.shape[2:])


@torch.library.register_fake("intarsia::masked_tv")
def _(image: Tensor, weight: Tensor | None, product: bool) -> tuple[Tensor, Tensor]:
    del weight, product
    loss = image.new_empty((), dtype=_accumulator(image))
    return loss, torch.empty_like(image, memory_format=memory_format(image))


def _only_features(ctx: Any, name: str) -> None:
    if any(ctx.needs_input_grad[1:]):
        raise RuntimeError(f"intarsia::{name} has a gradient by its first argument only; detach masks and targets")


def _per_mass(mass: Tensor) -> Tensor:
    """1 / mass, 0 for an empty segment: no gradient flows into it."""
    return torch.where(mass > 0, 1 / mass, 0)


def loss_scales(factors: Tensor, mass: Tensor) -> Tensor:
    """4 factor_r / mass_r: dL/df_p = sum_r m_r(p) scale_r (G_r - A_r) f_p."""
    return 4 * factors * _per_mass(mass.to(factors.dtype))


def _save_gram(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, indices, weights, tile_segments, group_tiles, mass, exact = inputs
    del output
    ctx.save_for_backward(features, indices, weights, tile_segments, group_tiles, mass)
    ctx.exact = exact
    ctx.set_materialize_grads(False)


def _gram_backward(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None) -> tuple[Tensor | None, ...]:
    """dL/df_p = sum_r m_r(p) / mass_r ((D_r + D_r^T) f_p + e_r), D = dL/dG and e = dL/dmean."""
    _only_features(ctx, "masked_gram")
    features, indices, weights, tile_segments, group_tiles, mass = ctx.saved_tensors
    per_mass = _per_mass(mass.to(_accumulator(features)))
    batch, channels = features.shape[:2]
    if grad is None:
        grad = per_mass.new_zeros(batch, len(mass), channels, channels)
    result = torch.ops.intarsia.masked_gram_backward(
        features,
        indices,
        weights,
        tile_segments,
        group_tiles,
        grad.contiguous(),
        False,
        per_mass.expand(batch, -1).contiguous(),
        None if grad_mean is None else (grad_mean * per_mass[:, None]).contiguous(),
        ctx.exact,
    )
    return (result, *[None] * 6)


def _save_gram_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, indices, weights, tile_segments, group_tiles, mass, _, factors, exact = inputs
    ctx.save_for_backward(features, indices, weights, tile_segments, group_tiles, mass, factors, output[1])
    ctx.exact = exact
    ctx.set_materialize_grads(False)


def _gram_loss_backward(ctx: Any, grad: Tensor | None, grad_difference: Tensor | None) -> tuple[Tensor | None, ...]:
    """dL/df_p = sum_r m_r(p) 4 factor_r dL/dloss_r / mass_r (G_r - A_r) f_p; the difference is symmetric."""
    _only_features(ctx, "masked_gram_loss")
    if grad_difference is not None:
        raise RuntimeError("intarsia::masked_gram_loss: the difference is for the backward pass, it has no gradient")
    if grad is None:
        return (None,) * 9
    features, indices, weights, tile_segments, group_tiles, mass, factors, difference = ctx.saved_tensors
    scales = loss_scales(grad * factors, mass).contiguous()
    result = torch.ops.intarsia.masked_gram_backward(
        features, indices, weights, tile_segments, group_tiles, difference, True, scales, None, ctx.exact
    )
    return (result, *[None] * 8)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    del ctx, inputs, output


def _no_double_backward(ctx: Any, grad: Tensor) -> None:
    del ctx, grad
    raise RuntimeError("intarsia::masked_gram has no second derivative: double backward is not supported")


def _no_gradient(name: str) -> Callable[..., Any]:
    def refuse(ctx: Any, *grads: Tensor | None) -> None:
        del ctx, grads
        raise RuntimeError(f"intarsia::{name} is part of the encoder's own way back, autograd finds no gradient by it")

    return refuse


def _save_tv(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    del inputs
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _tv_backward(ctx: Any, grad: Tensor | None, grad_gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
    _only_features(ctx, "masked_tv")
    if grad_gradient is not None:
        raise RuntimeError("intarsia::masked_tv has no second derivative: double backward is not supported")
    if grad is None:
        return None, None, None
    (gradient,) = ctx.saved_tensors
    return gradient * grad.to(gradient.dtype), None, None


torch.library.register_autograd("intarsia::masked_gram", _gram_backward, setup_context=_save_gram)
torch.library.register_autograd("intarsia::masked_gram_loss", _gram_loss_backward, setup_context=_save_gram_loss)
torch.library.register_autograd("intarsia::masked_gram_backward", _no_double_backward, setup_context=_save_nothing)
torch.library.register_autograd("intarsia::masked_tv", _tv_backward, setup_context=_save_tv)
for _name in ("convolution_input", "relu_backward", "feature_loss"):
    torch.library.register_autograd(f"intarsia::{_name}", _no_gradient(_name), setup_context=_save_nothing)
