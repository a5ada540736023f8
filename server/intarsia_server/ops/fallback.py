"""The operators in plain torch: for a device without compiled kernels, and as the example that those must follow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor

from intarsia_server.ops.layers import fold_margin
from intarsia_server.ops.plan import TILE


def masked_gram(
    features: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    tile_segments: Tensor,
    group_tiles: Tensor,
    mass: Tensor,
    exact: bool,
) -> tuple[Tensor, Tensor]:
    """Second and first moments of each segment; see `library.SCHEMAS`."""
    del tile_segments, exact
    rows = _rows(features)
    batch, _, channels = rows.shape
    gram = rows.new_zeros(batch, len(mass), channels, channels)
    mean = rows.new_zeros(batch, len(mass), channels)
    for segment, index, weight in _groups(indices, weights, group_tiles, rows.dtype):
        selected = rows.index_select(1, index)
        weighted = selected if weight is None else selected * weight
        gram[:, segment] += weighted.transpose(1, 2) @ selected
        mean[:, segment] += weighted.sum(dim=1)
    divisor = mass.to(rows.dtype).clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    # The product of a matrix with its own transpose is symmetric but for rounding.
    return (gram + gram.transpose(2, 3)) / (2 * divisor[:, :, None]), mean / divisor


def masked_gram_loss(
    features: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    tile_segments: Tensor,
    group_tiles: Tensor,
    mass: Tensor,
    targets: Tensor,
    factors: Tensor,
    exact: bool,
) -> tuple[Tensor, Tensor]:
    """Weighted squared distances to targets, and the differences."""
    gram, _ = masked_gram(features, indices, weights, tile_segments, group_tiles, mass, exact)
    difference = gram - targets
    return difference.square().sum(dim=(2, 3)) * factors, difference


def masked_gram_backward(
    features: Tensor,
    indices: Tensor,
    weights: Tensor | None,
    tile_segments: Tensor,
    group_tiles: Tensor,
    matrices: Tensor,
    symmetric: bool,
    scales: Tensor,
    mean_gradient: Tensor | None,
    exact: bool,
) -> Tensor:
    """Gradient by the features, given gradients by the Gram matrices."""
    del tile_segments, exact
    if not symmetric:
        matrices = matrices + matrices.transpose(2, 3)
    rows = _rows(features)
    result = torch.zeros_like(rows)
    for segment, index, weight in _groups(indices, weights, group_tiles, rows.dtype):
        part = rows.index_select(1, index) @ (matrices[:, segment] * scales[:, segment, None, None])
        if mean_gradient is not None:
            part += mean_gradient[:, segment, None]
        result.index_add_(1, index, part if weight is None else part * weight)
    batch, channels, height, width = features.shape
    gradient = result.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return torch.empty_like(features, memory_format=memory_format(features)).copy_(gradient)


def masked_tv(image: Tensor, weight: Tensor | None, product: bool) -> tuple[Tensor, Tensor]:
    """Weighted total variation and its gradient."""
    x = image.to(torch.promote_types(image.dtype, torch.float32))
    if weight is not None and product:
        x = x * weight
    dy = x[:, :, 1:] - x[:, :, :-1]
    dx = x[:, :, :, 1:] - x[:, :, :, :-1]
    by, bx = dy, dx
    if weight is not None and not product:
        by = dy * ((weight[1:] + weight[:-1]) / 2)
        bx = dx * ((weight[:, 1:] + weight[:, :-1]) / 2)
    scale = 1.0 / max(image.numel(), 1)
    loss = ((dy * by).sum() + (dx * bx).sum()) * scale
    gradient = torch.zeros_like(x)
    gradient[:, :, 1:] += by
    gradient[:, :, :-1] -= by
    gradient[:, :, :, 1:] += bx
    gradient[:, :, :, :-1] -= bx
    if weight is not None and product:
        gradient = gradient * weight
    return loss, torch.empty_like(image, memory_format=memory_format(image)).copy_(gradient * (2 * scale))


def convolution_input(features: Tensor, pool: bool, pad: bool) -> Tensor:
    """Pooled and padded; see `library.SCHEMAS`."""
    x = F.avg_pool2d(features, 2) if pool else features
    x = F.pad(x, (1, 1, 1, 1), mode="replicate") if pad else x.clone()
    return x.contiguous(memory_format=torch.channels_last)


def relu_backward(output: Tensor, gradient: Tensor, pooled: bool, padded: bool, added: Tensor | None) -> Tensor:
    """Gradient by a ReLU's input, given that by the next convolution's."""
    grad = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if padded:
        grad = fold_margin(grad)
    if pooled:
        height, width = output.shape[2:]
        grad = F.interpolate(grad * 0.25, scale_factor=2, mode="nearest")
        grad = F.pad(grad, (0, width - grad.shape[3], 0, height - grad.shape[2]))
    if added is not None:
        grad = grad + added
    return torch.where(output > 0, grad, 0).to(output.dtype).contiguous(memory_format=torch.channels_last)


def feature_loss(features: Tensor, target: Tensor, weight: Tensor | None, factor: float) -> tuple[Tensor, Tensor]:
    """Weighted mean square of the difference to a target, and its gradient."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    difference = features.to(dtype) - target.to(dtype)
    weighted = difference if weight is None else difference * weight
    share = factor / max(features.numel(), 1)
    gradient = (weighted * (2 * share)).to(features.dtype)
    return (difference * weighted).sum() * share, gradient.contiguous(memory_format=torch.channels_last)


def memory_format(tensor: Tensor) -> torch.memory_format:
    """The layout in which gradients of this tensor come: channels_last stays, all else is contiguous."""
    if tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.contiguous_format
    return torch.channels_last


def _rows(features: Tensor) -> Tensor:
    """[N, C, H, W] as rows of channels [N, P, C], at least float32."""
    batch, channels, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    return rows.to(torch.promote_types(features.dtype, torch.float32))


def _groups(
    indices: Tensor, weights: Tensor | None, group_tiles: Tensor, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """Segment, pixel indices and weights (a column; None: all 1) of each group but the pseudo segment's."""
    for bounds in (group_tiles * TILE).tolist():
        for segment, (start, end) in enumerate(itertools.pairwise(bounds[:-1])):
            if start == end:
                continue
            index = indices[start:end]
            kept = index >= 0
            weight = None if weights is None else weights[start:end][kept].to(dtype)[:, None]
            yield segment, index[kept], weight
