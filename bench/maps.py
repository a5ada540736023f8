"""The feature maps and masks on which the operators are timed: VGG-19's five style layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CHANNELS = (64, 128, 256, 512, 512)
SIZES = {"cpu": (400, 600), "cuda": (512, 512)}
FEATHER = 8
"""Pixels of the image over which soft masks pass from 1 to 0, to either side of a border."""


@dataclass(frozen=True)
class Case:
    """Features of one type and layout."""

    dtype: torch.dtype
    channels_last: bool
    device: torch.device

    @property
    def name(self) -> str:
        """For the table."""
        return f"{str(self.dtype).removeprefix('torch.')}, {'channels_last' if self.channels_last else 'NCHW'}"


def hard_masks(segments: int, height: int, width: int, device: torch.device) -> Tensor:
    """A partition [R, H, W] into the cells of R points: connected segments with borders in every direction."""
    points = torch.rand(segments, 2, generator=torch.Generator().manual_seed(segments)).to(device)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    distance = (y[None, :, None] - points[:, 0, None, None]) ** 2 + (x[None, None] - points[:, 1, None, None]) ** 2
    return functional.one_hot(distance.argmin(0), segments).permute(2, 0, 1).float()


def soft_masks(segments: int, height: int, width: int, device: torch.device) -> Tensor:
    """The same, feathered by `FEATHER` px to either side; a partition of unity."""
    hard = hard_masks(segments, height, width, device)
    kernel = 2 * FEATHER + 1
    padded = functional.pad(hard[None], [FEATHER] * 4, mode="replicate")
    return functional.avg_pool2d(padded, kernel, stride=1)[0]


def pooled(masks: Tensor, layer: int) -> Tensor:
    """Masks at style layer 0 to 4, by area averaging, as the engine does it."""
    for _ in range(layer):
        masks = functional.avg_pool2d(masks[None], 2)[0]
    return masks


def features(size: tuple[int, int], layer: int, case: Case) -> Tensor:
    """Random non-negative features [1, C, H, W] like those of a ReLU."""
    channels = CHANNELS[layer]
    shape = (1, channels, size[0] >> layer, size[1] >> layer)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(layer)).relu_().to(case.device, case.dtype)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    return values.contiguous(memory_format=layout)


def upstream(segments: int, channels: int, device: torch.device) -> Tensor:
    """A gradient by the Gram matrices, [1, R, C, C]."""
    generator = torch.Generator().manual_seed(channels + segments)
    return torch.randn(1, segments, channels, channels, generator=generator).to(device)
