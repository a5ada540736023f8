"""What stands between the encoder's convolutions, forward and backward, each in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor


def convolution_input(features: Tensor, *, pool: bool, pad: bool) -> Tensor:
    """The next convolution's input.

    Args:
        features: [N, C, H, W], channels_last, float32, bfloat16 or float64.
        pool: average squares of 2x2 pixels first; an odd last row or column is dropped.
        pad: then replicate the outermost pixels once on every side.

    Returns:
        A new tensor, channels_last.
    """
    result: Tensor = torch.ops.intarsia.convolution_input(features, pool, pad)
    return result


def relu_backward(output: Tensor, gradient: Tensor, *, pooled: bool, padded: bool, added: Tensor | None) -> Tensor:
    """The gradient by a ReLU's input, given that by the `convolution_input` of its output.

    Args:
        output: of the ReLU [N, C, H, W], channels_last.
        gradient: by `convolution_input(output, pool=pooled, pad=padded)`, of its shape.
        pooled: as above.
        padded: as above.
        added: another gradient by the output [N, C, H, W], of losses that read it.

    Returns:
        [N, C, H, W], channels_last.
    """
    result: Tensor = torch.ops.intarsia.relu_backward(output, gradient, pooled, padded, added)
    return result


def feature_loss(features: Tensor, target: Tensor, weight: Tensor | None, factor: float) -> tuple[Tensor, Tensor]:
    """Distance of feature maps, factor mean(w (F - T)^2), and its gradient by F.

    Args:
        features: F [N, C, H, W], channels_last.
        target: T, of the same shape and type.
        weight: w [H, W], float32 (float64 for float64 features), or None for 1 everywhere.
        factor: on the mean.

    Returns:
        The loss, a scalar of at least float32, and the gradient, like the features.
    """
    loss: Tensor
    gradient: Tensor
    loss, gradient = torch.ops.intarsia.feature_loss(features, target, weight, factor)
    return loss, gradient


def fold_margin(gradient: Tensor) -> Tensor:
    """The gradient by a picture [N, C, H, W], given that by the picture padded by replication [N, C, H + 2, W + 2]."""
    for dim in (2, 3):
        inner = gradient.narrow(dim, 1, gradient.shape[dim] - 2).clone()
        inner.select(dim, 0).add_(gradient.select(dim, 0))
        inner.select(dim, -1).add_(gradient.select(dim, -1))
        gradient = inner
    return gradient
