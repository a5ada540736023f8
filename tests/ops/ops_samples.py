"""Arguments of the operators, of every kind, for what has to hold of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from intarsia_server.ops import fallback
from ops_cases import DTYPES, LAYOUTS, Shape, hard_masks, laid_out, random, soft_masks
from ops_checks import plan_of, plan_tensors, targets_of
from torch import Tensor

Arguments = tuple[Any, ...]

FALLBACK: dict[str, Callable[..., Any]] = {
    "masked_gram": fallback.masked_gram,
    "masked_gram_loss": fallback.masked_gram_loss,
    "masked_gram_backward": fallback.masked_gram_backward,
    "masked_tv": fallback.masked_tv,
    "convolution_input": fallback.convolution_input,
    "relu_backward": fallback.relu_backward,
    "feature_loss": fallback.feature_loss,
}

CHANNELS_LAST = ("convolution_input", "relu_backward", "feature_loss")
"""Operators that take no other layout."""

SMALL: Shape = (2, 70, 9, 15)


def operator(name: str) -> Any:
    """The operator as it is called, with kernels chosen by its arguments."""
    return getattr(torch.ops.intarsia, name).default


def tensors(result: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What an operator returned, as a tuple."""
    return (result,) if isinstance(result, Tensor) else tuple(result)


def samples(
    name: str, device: torch.device, *, shape: Shape = SMALL, layouts: Sequence[str] = tuple(LAYOUTS)
) -> Iterator[tuple[str, Arguments]]:
    """Descriptions and arguments: each type and layout, hard and soft masks, with and without what is optional."""
    taken = [each for each in layouts if name not in CHANNELS_LAST or each.startswith("channels_last")]
    for kind, dtype in DTYPES[device.type].items():
        for layout in taken:
            for soft in (False, True):
                x = laid_out(random(*shape).to(device, dtype), layout)
                for note, arguments in _arguments(name, x, soft=soft):
                    yield f"{name}, {kind}, {layout}, {'soft' if soft else 'hard'}{note}", arguments


def _arguments(name: str, x: Tensor, *, soft: bool) -> Iterator[tuple[str, Arguments]]:
    batch, channels, height, width = x.shape
    segments = 3
    # A quarter of the pixels is in no segment, and the last segment is empty.
    make = soft_masks(segments, height, width) if soft else hard_masks(segments, height, width, uncovered=0.25)
    make[-1] = 0
    plan = plan_of(make, x)
    like = plan.mass
    if name == "masked_gram":
        yield "", (x, *plan_tensors(plan), plan.mass, True)
    elif name == "masked_gram_loss":
        yield "", (x, *plan_tensors(plan), plan.mass, *targets_of(make, channels, like), True)
    elif name == "masked_gram_backward":
        matrices = random(batch, segments, channels, channels).to(like)
        scales, mean_gradient = random(batch, segments).to(like), random(batch, segments, channels).to(like)
        yield ", two triangles", (x, *plan_tensors(plan), matrices, False, scales, None, True)
        yield ", means", (x, *plan_tensors(plan), matrices + matrices.mT, True, scales, mean_gradient, True)
    elif name == "masked_tv":
        weight = make[0].to(like) if soft else None
        yield "", (x, weight, False)
        yield ", product", (x, weight, True)
    elif name == "feature_loss":
        target = laid_out(random(*x.shape, seed=1).to(x), "channels_last")
        yield "", (x, target, make[0].to(like) if soft else None, 0.3)
    else:
        pooled = soft and min(height, width) > 1
        for padded in (False, True):
            note = f"{', pooled' * pooled}{', padded' * padded}"
            if name == "convolution_input":
                yield note, (x, pooled, padded)
                continue
            sides = [side // (1 + pooled) + 2 * padded for side in (height, width)]
            gradient = laid_out(random(batch, channels, *sides, seed=1).to(x), "channels_last")
            added = laid_out(random(*x.shape, seed=2).to(x), "channels_last") if padded else None
            yield note, (x, gradient, pooled, padded, added)
