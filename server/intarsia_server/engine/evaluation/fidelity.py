"""Content: how much of the content image is still there."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor

CONTENT_LAYER = "relu3_3"
"""In no objective: the content loss is taken at relu4_2."""

_WINDOW, _SIGMA = 11, 1.5
_CONTRAST_FLOOR = 0.03**2


def content_distance(result: Tensor, content: Tensor) -> float:
    """Mean of (F - F_c)^2 / var F_c of feature maps at `CONTENT_LAYER`; 0 for the content image itself."""
    return float((result - content).square().mean() / content.var().clamp_min(1e-6))


def structure_similarity(result: Tensor, content: Tensor) -> float:
    """Structural similarity of gradient magnitudes, mean over the picture.

    G-SSIM (Chen, Yang and Xie 2006, section 3): contrast and structure terms of SSIM on Sobel maps of the luminance, in
    a Gaussian window of 11 x 11 pixels, sigma 1.5 (Wang et al. 2004). The luminance term is left out: styles change
    brightness on purpose.

    Args:
        result: RGB in 0..1, [1, 3, H, W].
        content: likewise.

    Returns:
        -1 to 1; 1 for the content image itself.
    """
    one, other = _edges(result), _edges(content)
    mean_one, mean_other = _blur(one), _blur(other)
    covariance = _blur(one * other) - mean_one * mean_other
    variances = _blur(one.square()) - mean_one.square() + _blur(other.square()) - mean_other.square()
    return float(((2 * covariance + _CONTRAST_FLOOR) / (variances + _CONTRAST_FLOOR)).mean())


def _edges(rgb: Tensor) -> Tensor:
    """Sobel gradient magnitude of the luminance (Rec. 601)."""
    luminance = (rgb * rgb.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    across = rgb.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 4
    kernels = torch.stack([across, across.T])[:, None]
    squared = F.conv2d(F.pad(luminance, (1, 1, 1, 1), mode="replicate"), kernels).square()
    # sqrt has no slope at 0, but nothing here is differentiated.
    return squared.sum(dim=1, keepdim=True).sqrt()


def _blur(image: Tensor) -> Tensor:
    steps = torch.arange(_WINDOW, device=image.device, dtype=image.dtype) - _WINDOW // 2
    weights = torch.softmax(-steps.square() / (2 * _SIGMA**2), dim=0)
    return F.conv2d(F.conv2d(image, weights[None, None, :, None]), weights[None, None, None, :])
