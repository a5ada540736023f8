"""The memory that a job takes at its peak, beyond what an idle worker holds.

Counted from what is held at the same time; the shares of it that only the framework knows were fitted to the peaks of
real jobs (`python -m bench.estimate`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

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
from intarsia_server.engine.request import Optimizer, Precision, SoftMasks, TransferRequest
from intarsia_server.engine.tiles import MARGINS, OVERLAP, largest_tile
from intarsia_server.engine.vgg import BLOCKS, CONTENT_LAYER, CONVOLUTIONS, LAYERS, STYLE_LAYERS

FLOAT = 4
"""Bytes."""

DECODED = 10
"""Bytes a pixel while a picture is decoded: its file's mode, RGB, and a copy of that."""

ROOM = 40
"""Bytes a pixel of what is there at each size that stages work at: content, labels, start, composite."""

KEPT_OF_TILES = 18
"""Bytes a pixel of what is made once for all steps in tiles: lists of the masks' pixels at every layer, each with index
and weight, and twice where two masks overlap."""

CORE_COPIES = 2
"""Of a tile's feature maps that losses read: its core's alone, and the gradients by them with nothing around."""

MASK_COPIES = 4
"""Of the masks, while they are made and feathered; whole numbers of eight bytes are among them."""

FORWARD, BACKWARD = 4.0, 6.0
"""Copies of the largest layer that are there at a time beside what is kept: a pass over a style image has a
convolution's input, padded, and its output; the way back their gradients, too."""

FIXED = 12 * 2**20
"""Bytes of any job: buffers of threads and of the framework, sums of Gram matrices."""

SPREAD = 1.25
"""What the allocator takes of the system for each byte that is held."""

SPREAD_OF_TILES = 1.45
"""The same where a job is done in tiles: they differ in size, and what one leaves is seldom what the next can use."""

SPARE_VECTORS = 8
"""Copies of the image that an optimizer and a step hold, whatever the history."""

FEATURE_COPIES = 2
"""Of feature maps that are compared themselves: the target, and a gradient before it is added to another."""

GRAM_COPIES = 2.5
"""Of each segment's Gram matrices: the style's own, the target, and a step's."""

GRAM_SUMS = 4
"""And of the sums over tiles: in float64, and as differences from the targets."""

STYLE_VECTORS = 4
"""Copies of a style image in float32 that the encoder does not see as a whole: the image, and in another palette."""

LOADING, LOADED = 5.2, 3.3
"""Copies of the encoder's weights in float32 while it is loaded, and in its precision from then on: each convolution
has its kernels twice, forward and backward, and what lies free between them is hardly of use."""

PADDED = 1.1
"""A feature map with a cell around it on every side, over one without, and a little for how the allocator rounds."""

IDLE = 850 * 2**20
"""Bytes that a worker holds when it does nothing: libraries and the default encoder."""

MIN_TILE = (192 + 2 * OVERLAP) ** 2
"""Pixels of the smallest tiles that save memory: with smaller ones the encoder sees little else than overlap, and what
is there of the whole picture is more than what they take."""

TILE_STEP = 16
"""Tiles are found that are as large as they can be to this part of themselves."""

ENCODER_WEIGHTS = sum(
    9 * channels_in * BLOCKS[block - 1][0] + BLOCKS[block - 1][0]
    for (block, _), channels_in in zip(
        CONVOLUTIONS, (3, *(BLOCKS[block - 1][0] for block, _ in CONVOLUTIONS[:-1])), strict=True
    )
)
"""Numbers in the sixteen convolutions."""


def peak_memory(
    request: TransferRequest,
    size: Size,
    *,
    precision: Precision,
    loaded: bool,
    areas: Mapping[str, float] | None = None,
    tile_pixels: int | None = None,
) -> int:
    """Bytes that a job adds at its peak.

    Args:
        request: checked by `check_inputs`.
        size: of the output.
        precision: resolved.
        loaded: whether an idle worker has that encoder in that precision.
        areas: as of `job_work`.
        tile_pixels: as of `job_work`.
    """
    plan = plan_of(request, size)
    phases = [_decoding(request)]
    for stage in plan:
        at = stage_size(stage, size)
        phases.append(_making_masks(stage, request, at, tile_pixels))
        phases += [_targets_pass(area, at, precision, tile_pixels) for area in _targets(stage.losses, request, at)]
        phases.append(_stepping(stage, request, at, precision, (areas or {}).get(stage.name, 1.0), tile_pixels))
    whole = largest_tile(size[1], size[0], tile_pixels) == (size[1], size[0])
    spread = SPREAD if whole else SPREAD_OF_TILES
    peak = spread * max(phases)
    if not loaded:
        peak = max(LOADING * FLOAT * ENCODER_WEIGHTS, LOADED * _bytes(precision) * ENCODER_WEIGHTS + peak)
    return round(FIXED + spread * _held(request, plan, size) + peak)


def _bytes(precision: Precision) -> int:
    return 2 if precision is Precision.BF16 else FLOAT


def _held(request: TransferRequest, plan: Iterable[Stage], size: Size) -> float:
    """From the job's start to its end: the request, and images and masks of each size."""
    pixels = size[0] * size[1]
    encoded = len(request.content) + sum(len(segment.style or b"") for segment in request.segments)
    masks = FLOAT * len(request.segments)
    held: float = pixels * (ROOM + (masks if isinstance(request.segmentation, SoftMasks) else 0))
    if any(stage.half for stage in plan):
        # Whose masks are soft: what is a pixel there belongs to several segments here.
        held += pixels / 4 * (ROOM + masks)
    return encoded + held


def _decoding(request: TransferRequest) -> float:
    pictures = [request.content, *(segment.style for segment in request.segments if segment.style is not None)]
    return 3 * pixel_count(request.content) + DECODED * max(map(pixel_count, pictures))


class PeakMemory(Protocol):
    """`peak_memory` of one job."""

    def __call__(self, *, tile_pixels: int | None) -> int:
        """Bytes."""
        ...


def tile_pixels_for(needed: PeakMemory, size: Size, budget: int) -> int | None:
    """The most pixels that the encoder may see at a time if a job is to stay within a budget.

    Args:
        needed: by the job.
        size: of the output.
        budget: bytes that the job may add.

    Returns:
        None: every picture may be seen as a whole. Where no tile is small enough, `MIN_TILE`.
    """

    def fits(tile_pixels: int | None) -> bool:
        return needed(tile_pixels=tile_pixels) <= budget

    if fits(None):
        return None
    fitting, too_many = MIN_TILE, max(2 * MIN_TILE, size[0] * size[1])
    while too_many - fitting > fitting // TILE_STEP:
        middle = (fitting + too_many) // 2
        if fits(middle):
            fitting = middle
        else:
            too_many = middle
    return fitting


def largest_buffer(precision: Precision, tile_pixels: int) -> int:
    """Bytes of the largest buffer of a tile: the first block's feature maps, and a little for their padding."""
    return round(PADDED * _bytes(precision) * _channels(LAYERS[0]) * tile_pixels)


def job_budget(memory_bytes: int) -> int:
    """What a job may add, if its worker may hold that much in all.

    By a round figure for a worker that does nothing, not by what it holds just now: a job that goes on elsewhere is to
    have the same tiles.
    """
    return memory_bytes - IDLE


def _making_masks(stage: Stage, request: TransferRequest, size: Size, tile_pixels: int | None) -> float:
    height, width = largest_tile(size[1], size[0], tile_pixels)
    margin = 0.0
    if (height, width) != (size[1], size[0]):
        margin = 2 * max((loss.feather for loss in stage.losses if isinstance(loss, Style)), default=0.0)
    return (height + margin) * (width + margin) * FLOAT * MASK_COPIES * _mask_count(stage.losses, request)


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


def _stepping(
    stage: Stage, request: TransferRequest, size: Size, precision: Precision, area: float, tile_pixels: int | None
) -> float:
    """The activations of a step on that share of the picture, the optimizer's vectors and the targets."""
    image = 3 * FLOAT * size[0] * size[1]
    pairs = 0
    if request.optimization.optimizer is Optimizer.LBFGS:
        pairs = min(request.optimization.history, stage.steps)
    vectors = image * (2 * pairs + SPARE_VECTORS)
    styled = [loss for loss in stage.losses if isinstance(loss, Style | SurrogateStyle)]
    matched = sum(len(loss.segments) if isinstance(loss, Style) else 1 for loss in styled)
    if matched:
        matched += _mask_count(stage.losses, request) - len(request.segments)
    grams = FLOAT * matched * sum(_channels(layer) ** 2 for layer in STYLE_LAYERS)
    height, width = largest_tile(size[1], size[0], tile_pixels)
    if (height, width) == (size[1], size[0]):
        return area * (_activations(stage, size, precision, None) + vectors) + GRAM_COPIES * grams
    kept = float(_bytes(precision) * _numbers({CONTENT_LAYER} & layers_of(stage.losses), size))
    kept += KEPT_OF_TILES * size[0] * size[1] * bool(matched)
    own = _activations(stage, size, precision, tile_pixels)
    core_height, core_width = largest_tile(size[1], size[0], tile_pixels, 0)
    own += CORE_COPIES * _bytes(precision) * _numbers(layers_of(stage.losses), (core_width, core_height))
    return area * (vectors + kept) + own + (GRAM_COPIES + GRAM_SUMS) * grams


def _activations(stage: Stage, size: Size, precision: Precision, tile_pixels: int | None) -> float:
    """Every feature map, those that they are compared with, the gradients by them, and the way back."""
    layers = layers_of(stage.losses)
    if not layers:
        return 0.0
    kept = _numbers(LAYERS[: depth_of(layers)], size, tile_pixels)
    compared = [layers_of([loss]) for loss in stage.losses if isinstance(loss, Content | Surrogate)]
    kept += FEATURE_COPIES * sum(_numbers(own, size, tile_pixels) for own in compared)
    kept += _numbers(layers, size, tile_pixels)
    if stage.capped:
        # Each segment's style has gradients of its own, all of which are there before the first finds its way back.
        others = sum(len(loss.segments) - 1 for loss in stage.losses if isinstance(loss, Style))
        kept += others * _numbers(STYLE_LAYERS, size, tile_pixels)
    return _bytes(precision) * (kept + BACKWARD * _numbers(LAYERS[:1], size, tile_pixels))


def _targets_pass(area: float, size: Size, precision: Precision, tile_pixels: int | None) -> float:
    """A pass over a style image of `area` times that size: only the style layers' feature maps stay."""
    scale = math.sqrt(area)
    own = (round(size[0] * scale), round(size[1] * scale))
    height, width = largest_tile(own[1], own[0], tile_pixels)
    image = 0.0
    if (height, width) != (own[1], own[0]):
        image = (3 * FLOAT * STYLE_VECTORS + KEPT_OF_TILES) * area * size[0] * size[1]
        area = height * width / (size[0] * size[1])
    return image + area * _bytes(precision) * (_numbers(STYLE_LAYERS, size) + FORWARD * _numbers(LAYERS[:1], size))


def _numbers(layers: Iterable[str], size: Size, tile_pixels: int | None = None) -> int:
    """In the feature maps of an image, or of the largest of its tiles."""
    total = 0
    for layer in layers:
        block = int(layer[4])
        height, width = largest_tile(size[1], size[0], tile_pixels, MARGINS[block - 1])
        total += _channels(layer) * layer_pixels(block, (width, height))
    return total


def _channels(layer: str) -> int:
    return BLOCKS[int(layer[4]) - 1][0]
