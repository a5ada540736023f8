"""Total variation of an image, weighted by a map."""

from __future__ import annotations

from torch import Tensor


def masked_tv(image: Tensor, weight: Tensor | None = None, *, product: bool = False) -> Tensor:
    """Weighted squared differences between neighbouring pixels, over N C H W.

    Args:
        image: [N, C, H, W].
        weight: [H, W], or None for 1 everywhere.
        product: TV(b x) as published, which also pulls pixels towards mean grey, instead of sum b |grad x|^2.

    Returns:
        A scalar: (sum b dy^2 + sum b dx^2) / (N C H W), b of a pair being the mean of its two pixels' weights.
    """
    scale = 1.0 / image.numel()
    if weight is not None and product:
        image, weight = image * weight, None
    dy = (image[:, :, 1:] - image[:, :, :-1]).square()
    dx = (image[:, :, :, 1:] - image[:, :, :, :-1]).square()
    if weight is not None:
        dy = dy * ((weight[1:] + weight[:-1]) / 2)
        dx = dx * ((weight[:, 1:] + weight[:, :-1]) / 2)
    return (dy.sum() + dx.sum()) * scale
