"""The memory that a job takes at its peak, beyond what an idle worker holds.

Counted from what is held at the same time; the shares of it that only the framework knows were fitted to the peaks of
real jobs (`python -m bench.estimate`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from intarsia_server.engine.cost.work import (
    Size,
    layer_pixels,
    layers_of,
    plan_of,
    stage_size,
    style_pixels,
)
from intarsia_server.engine.cost.work import depth as depth_of
from intarsia_server.engine.images import pixel_count
from intarsia_server.engine.methods import Content, LossSpec, Stage, Style, Surrogate, SurrogateStyle
from intarsia_server.engine.request import Optimizer, Precision, TransferRequest
from intarsia_server.engine.vgg import BLOCKS, CONVOLUTIONS, LAYERS, STYLE_LAYERS

FLOAT = 4
"""Bytes."""

DECODED = 10
"""Bytes a pixel while a picture is decoded: its file's mode, RGB, and a copy of that."""

ROOM = 40
"""Bytes a pixel of what is there at each size that stages work at: content, labels, start, composite."""

MASK_COPIES = 4
"""Of the masks, while they are made and feathered; whole numbers of eight bytes are among them."""

FORWARD, BACKWARD = 5.0, 7.0
"""Copies of the largest layer that a pass over a style image, or a step, needs beside what it keeps."""

FIXED = 10 * 2**20
"""Bytes of any job: buffers of threads and of the framework."""

SPARE_VECTORS = 8
"""Copies of the image that an optimizer and a step hold, whatever the history."""

FEATURE_COPIES = 3
"""Of feature maps that are compared themselves: the target, its distance, and that one's gradient."""

GRAM_COPIES = 4
"""Of each segment's Gram matrices: the style's own, the target, and a step's."""

ENCODER_WEIGHTS = sum(
    9 * channels_in * BLOCKS[block - 1][0] + BLOCKS[block - 1][0]
    for (block, _), channels_in in zip(
        CONVOLUTIONS, (3, *(BLOCKS[block - 1][0] for block, _ in CONVOLUTIONS[:-1])), strict=True
    )
)
"""Numbers in the sixteen convolutions."""


def peak_memory(request: TransferRequest, size: Size, *, precision: Precision, loaded: bool) -> int:
    """Bytes that a job adds at its peak.

    Args:
        request: checked by `check_inputs`.
        size: of the output.
        precision: resolved.
        loaded: whether an idle worker has that encoder in that precision.
    """
    plan = plan_of(request, size)
    phases = [_decoding(request)]
    for stage in plan:
        at = stage_size(stage, size)
        phases.append(_making_masks(stage, request, at))
        phases += [_pass(STYLE_LAYERS, area, at, precision, kept=False) for area in _targets(stage.losses, request, at)]
        phases.append(_stepping(stage, request, at, precision))
    weights = 0 if loaded else ENCODER_WEIGHTS * _bytes(precision)
    return round(FIXED + weights + _held(request, plan, size) + max(phases))


def _bytes(precision: Precision) -> int:
    return 2 if precision is Precision.BF16 else FLOAT


def _held(request: TransferRequest, plan: Iterable[Stage], size: Size) -> float:
    """From the job's start to its end: the request, and images and masks of each size."""
    pixels = size[0] * size[1] * (1.25 if any(stage.half for stage in plan) else 1.0)
    encoded = len(request.content) + sum(len(segment.style or b"") for segment in request.segments)
    return encoded + pixels * (ROOM + FLOAT * len(request.segments))


def _decoding(request: TransferRequest) -> float:
    pictures = [request.content, *(segment.style for segment in request.segments if segment.style is not None)]
    return 3 * pixel_count(request.content) + DECODED * max(map(pixel_count, pictures))


def _making_masks(stage: Stage, request: TransferRequest, size: Size) -> float:
    return size[0] * size[1] * FLOAT * MASK_COPIES * _mask_count(stage.losses, request)


def _mask_count(losses: Iterable[LossSpec], request: TransferRequest) -> int:
    """Of segments and, where they are feathered, of the bands between them: a map has about two neighbours to each."""
    count = len(request.segments)
    banded = any(isinstance(loss, Style) and loss.feather >= 1 and loss.band_weight > 0 for loss in losses)
    return count + (min(2 * count, count * (count - 1) // 2) if banded else 0)


def _targets(losses: Iterable[LossSpec], request: TransferRequest, size: Size) -> Iterator[float]:
    """The style images that the encoder sees, in areas of that size; the surrogate is as large as the picture."""
    for loss in losses:
        match loss:
            case Style(segments=indices):
                yield from (style_pixels(request, index, size) / (size[0] * size[1]) for index in indices)
            case SurrogateStyle():
                yield 1.0
            case _:
                pass


def _stepping(stage: Stage, request: TransferRequest, size: Size, precision: Precision) -> float:
    """The activations of a step, the optimizer's vectors and the targets."""
    image = 3 * FLOAT * size[0] * size[1]
    pairs = 0
    if request.optimization.optimizer is Optimizer.LBFGS:
        pairs = min(request.optimization.history, stage.steps)
    grams = 0
    if any(isinstance(loss, Style | SurrogateStyle) for loss in stage.losses):
        channels = sum(_channels(layer) ** 2 for layer in STYLE_LAYERS)
        grams = GRAM_COPIES * FLOAT * channels * _mask_count(stage.losses, request)
    compared = [layer for loss in stage.losses for layer in layers_of([loss]) if isinstance(loss, Content | Surrogate)]
    features = sum(FEATURE_COPIES * FLOAT * _channels(layer) * layer_pixels(int(layer[4]), size) for layer in compared)
    activations = _pass(layers_of(stage.losses), 1.0, size, precision, kept=True)
    return activations + features + image * (2 * pairs + SPARE_VECTORS) + grams


def _channels(layer: str) -> int:
    return BLOCKS[int(layer[4]) - 1][0]


def _pass(layers: Iterable[str], area: float, size: Size, precision: Precision, *, kept: bool) -> float:
    """The activations of a pass over an image of `area` times that size; `kept`: with what a backward pass needs."""
    layers = set(layers)
    deepest = depth_of(layers)
    if not deepest:
        return 0.0
    width = _bytes(precision)
    total = 0.0
    channels_in = 3
    for (block, conv), layer in zip(CONVOLUTIONS[:deepest], LAYERS, strict=False):
        channels = BLOCKS[block - 1][0]
        pixels = layer_pixels(block, size)
        if kept:
            # What a convolution was given, padded, and what came out of it; what was pooled before it.
            total += width * (channels_in * (2 if conv == 1 and block > 1 else 1) + channels) * pixels
        if layer in layers and precision is Precision.BF16:
            total += FLOAT * channels * pixels
        channels_in = channels
    largest = BLOCKS[0][0] * layer_pixels(1, size)
    return area * (total + (BACKWARD if kept else FORWARD) * width * largest)
