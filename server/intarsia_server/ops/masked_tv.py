"""Total variation of an image, weighted by a map."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_tv(image: Tensor, weight: Tensor | None = None, *, product: bool = False) -> Tensor:
    """Weighted squared differences between neighbouring pixels, over N C H W; its gradient comes of the same pass.

    Args:
        image: [N, C, H, W].
        weight: [H, W], float32 (float64 for a float64 image), or None for 1 everywhere.
        product: TV(b x) as published, which also pulls pixels towards mean grey, instead of sum b |grad x|^2.

    Returns:
        A scalar: (sum b dy^2 + sum b dx^2) / (N C H W), b of a pair being the mean of its two pixels' weights.
        Differentiable by the image, once.

    Raises:
        ValueError: the weight has another size.
    """
    return masked_tv_gradient(image, weight, product=product)[0]


def masked_tv_gradient(image: Tensor, weight: Tensor | None = None, *, product: bool = False) -> tuple[Tensor, Tensor]:
    """`masked_tv` and its gradient by the image, without autograd."""
    if weight is not None and weight.shape != image.shape[2:]:
        raise ValueError(f"weight is {tuple(weight.shape)}, image is {tuple(image.shape[2:])}")
    loss: Tensor
    gradient: Tensor
    loss, gradient = torch.ops.intarsia.masked_tv(image, None if weight is None else weight.contiguous(), product)
    return loss, gradient
