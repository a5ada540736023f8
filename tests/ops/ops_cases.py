"""What the operators are tested on: every kind of features and masks, as tables that give tests their parameters.

A test that asks for an argument of a table's name (`dtype`, `layout`, `masks`, `shape`, `precision`) runs once with
each of its values. Nothing here needs more than torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int, int]
Masks = Callable[[int, int], Tensor]

DTYPES = {
    "cpu": {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64},
    "cuda": {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16},
}

PRECISIONS = {"cpu": {"highest": "highest"}, "cuda": {"highest": "highest", "high": "high"}}
"""What `torch.set_float32_matmul_precision` takes; "high" allows TF32."""

LAYOUTS = {
    name: name for name in ("contiguous", "channels_last", "offset", "channels_last offset", "padded", "transposed")
}

SHAPES: dict[str, Shape] = {
    "one value": (1, 1, 1, 1),
    "one pixel": (2, 5, 1, 1),
    "one row": (1, 3, 1, 70),
    "one column": (2, 4, 67, 1),
    "one channel": (2, 1, 9, 15),
    "whole tiles": (1, 64, 16, 24),
    "tails": (2, 70, 9, 15),
    "two channel blocks": (1, 130, 11, 13),
    "three channel blocks": (2, 300, 7, 9),
}
"""[N, C, H, W] about the edges of tiles (64 pixels) and channel blocks (64 and 128)."""


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hard_masks(segments: int, height: int, width: int, *, uncovered: float = 0, seed: int = 0) -> Tensor:
    """Each pixel in one segment, but for the share `uncovered` in none."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(segments, (height, width), generator=generator)
    labels[torch.rand(height, width, generator=generator) < uncovered] = -1
    return (labels == torch.arange(segments)[:, None, None]).double()


def soft_masks(segments: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Overlapping; a third of the weights are 0 and some are 1. All are numbers that float32 has."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(segments, height, width, generator=generator, dtype=torch.float64)
    return (1.6 * values - 0.5).clamp(0, 1).float().double()


def _with_empty(masks: Tensor, number: int) -> Tensor:
    masks = masks.clone()
    masks[number] = 0
    return masks


def _one_hot(height: int, width: int) -> Tensor:
    masks = torch.zeros(1, height, width, dtype=torch.float64)
    masks[0, height // 2, width - 1] = 1
    return masks


MASKS: dict[str, Masks] = {
    "hard": lambda h, w: hard_masks(3, h, w),
    "hard, some pixels in none": lambda h, w: hard_masks(3, h, w, uncovered=0.4),
    "hard, one empty": lambda h, w: _with_empty(hard_masks(4, h, w), 2),
    "soft": lambda h, w: soft_masks(3, h, w),
    "soft, first and last empty": lambda h, w: _with_empty(_with_empty(soft_masks(5, h, w), 0), 4),
    "full": lambda h, w: torch.ones(1, h, w, dtype=torch.float64),
    "full but soft": lambda h, w: torch.full((1, h, w), 0.25, dtype=torch.float64),
    "two full": lambda h, w: torch.ones(2, h, w, dtype=torch.float64),
    "full, then part": lambda h, w: torch.cat([torch.ones(1, h, w).double(), hard_masks(2, h, w)]),
    "part, then full": lambda h, w: torch.cat([hard_masks(2, h, w), torch.ones(1, h, w).double()]),
    "one pixel": _one_hot,
    "all empty": lambda h, w: torch.zeros(2, h, w, dtype=torch.float64),
    "more segments than pixels in a tile": lambda h, w: hard_masks(70, h, w),
    "256 hard": lambda h, w: hard_masks(256, h, w, uncovered=0.1),
    "256 full": lambda h, w: torch.full((256, h, w), 0.5, dtype=torch.float64),
}


def tables(device: torch.device) -> Mapping[str, Mapping[str, Any]]:
    """Argument name -> name of each value -> value."""
    return {
        "device": {device.type: device},
        "dtype": DTYPES[device.type],
        "layout": LAYOUTS,
        "masks": MASKS,
        "precision": PRECISIONS[device.type],
        "shape": SHAPES,
    }


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same values, lying differently in memory."""
    batch, channels, height, width = values.shape
    match layout:
        case "contiguous":
            return values.contiguous()
        case "channels_last":
            return values.contiguous(memory_format=torch.channels_last)
        case "offset":  # not at a multiple of 16 bytes
            view = values.new_empty(values.numel() + 1)[1:].view(values.shape)
        case "channels_last offset":
            flat = values.new_empty(values.numel() + 3)[3:]
            view = flat.view(batch, height, width, channels).permute(0, 3, 1, 2)
        case "padded":
            view = values.new_zeros(batch, channels + 1, 2 * height, width + 3)[:, 1:, ::2, 2 : 2 + width]
        case "transposed":
            view = values.new_empty(width, height, channels, batch).permute(3, 2, 1, 0)
        case _:
            raise ValueError(layout)
    return view.copy_(values)


def features(
    shape: Shape, dtype: torch.dtype, layout: str = "contiguous", *, device: torch.device, seed: int = 0
) -> Tensor:
    """Random features that ask for a gradient."""
    return laid_out(random(*shape, seed=seed).to(device, dtype), layout).requires_grad_()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type of sums and masks beside features of this type."""
    return torch.promote_types(dtype, torch.float32)
