"""The work of a job, counted from the architecture: floating point operations of steps and targets, and pixels.

What is done to pictures outside of the encoder is counted in *pixels*: as many as could be decoded and made smaller in
the same time. Small parts of a step that are not counted (the losses' sums, say) are in the speeds all the same,
because those are measured on whole steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from intarsia_server.engine.grabcut import MARGIN, WORKING_SIDE
from intarsia_server.engine.images import pixel_count
from intarsia_server.engine.methods import (
    Content,
    LossSpec,
    Stage,
    Style,
    Surrogate,
    SurrogateStyle,
    TotalVariation,
    stages,
)
from intarsia_server.engine.request import (
    Automatic,
    Boxes,
    ImageFormat,
    LabelMapSource,
    Optimization,
    Optimizer,
    Scribbles,
    Segment,
    SegmentationModel,
    SoftMasks,
    Start,
    TransferRequest,
)
from intarsia_server.engine.tiles import seen_share, tile_count
from intarsia_server.engine.vgg import BLOCKS, CONTENT_LAYER, CONVOLUTIONS, LAYERS, STYLE_LAYERS, SURROGATE_LAYER

Size = tuple[int, int]
"""(width, height) in pixels."""

FLOPS_PER_BYTE = 30.0
"""What a device computes while it moves a byte, for the optimizer's vectors. Near it on CPUs, too low for GPUs; those
vectors are a few hundredths of a step, and all of a step without encoder, which takes next to no time."""

LBFGS_VECTORS, LBFGS_VECTORS_PER_PAIR, ADAM_VECTORS, TV_VECTORS = 12, 14, 12, 10
"""Vectors of the image's size that a step reads or writes."""

# Work on one pixel, in pixels decoded and made smaller; measured.
ENCODE = {ImageFormat.PNG: 6.5, ImageFormat.JPEG: 0.2, ImageFormat.WEBP: 3.0}
MASK = 0.1
PLAN = 2.0
FEATHER, FEATHER_TAP = 0.6, 0.05
BORDER_PER_REACH = 0.08
RECOLOUR = 1.0
GRABCUT_BOX, GRABCUT_LABEL = 140.0, 470.0

NETWORK_FLOPS: Mapping[SegmentationModel, float] = {
    SegmentationModel.FCN_RESNET101: 4.7e11,
    SegmentationModel.DEEPLABV3_RESNET101: 5.2e11,
    SegmentationModel.LRASPP_MOBILENET_V3_LARGE: 4.2e9,
}
"""At 520x520, as torchvision's documentation has them, a multiplication and an addition counted as two."""


@dataclass(frozen=True)
class StageWork:
    """A stage's work.

    Attributes:
        stage: whose.
        build_flops: of the targets, before its first step.
        build_pixels: of its masks.
        step_flops: of each step.
    """

    stage: Stage
    build_flops: float
    build_pixels: float
    step_flops: float


@dataclass(frozen=True)
class JobWork:
    """A job's work: its stages', and what is done before, between and after them."""

    flops: float
    pixels: float
    stages: tuple[StageWork, ...]


def job_work(
    request: TransferRequest, size: Size, areas: Mapping[str, float] | None = None, tile_pixels: int | None = None
) -> JobWork:
    """Counts the work of a job.

    Args:
        request: checked by `check_inputs`.
        size: of the output.
        areas: by stage, the share of the picture that it works on; 1 for those that are not named.
        tile_pixels: the most that the encoder sees at a time; None: every picture is seen as a whole.
    """
    plan = plan_of(request, size)
    built: set[tuple[int, float, bool]] = set()
    works = []
    for stage in plan:
        area = (areas or {}).get(stage.name, 1.0)
        flops, pixels = _build(stage, request, size, area, built)
        works.append(StageWork(stage, flops, pixels, area * step_flops(stage, request, size, tile_pixels)))
    flops = NETWORK_FLOPS[request.segmentation.model] if isinstance(request.segmentation, Automatic) else 0.0
    return JobWork(flops, _pixels_outside(request, size, plan), tuple(works))


def plan_of(request: TransferRequest, size: Size) -> tuple[Stage, ...]:
    """The job's stages, if every segment with a style has pixels: which it has but for automatic segmentation."""
    return stages(request.parameters, styled_of(request.segments), paper=request.paper, size=size)


def styled_of(segments: Iterable[Segment]) -> tuple[int, ...]:
    """Indices of the segments that have a style."""
    return tuple(index for index, segment in enumerate(segments) if segment.style is not None)


def stage_size(stage: Stage, size: Size) -> Size:
    """What a stage works at."""
    return (size[0] // 2, size[1] // 2) if stage.half else size


def layers_of(losses: Iterable[LossSpec]) -> frozenset[str]:
    """The feature maps that losses read."""
    found: set[str] = set()
    for loss in losses:
        match loss:
            case Content():
                found.add(CONTENT_LAYER)
            case Surrogate():
                found.add(SURROGATE_LAYER)
            case Style() | SurrogateStyle():
                found.update(STYLE_LAYERS)
            case TotalVariation():
                pass
    return frozenset(found)


def layer_pixels(layer_block: int, size: Size) -> int:
    """Of the feature maps of a block (from 1): pooling rounds down."""
    width, height = size
    return (width >> (layer_block - 1)) * (height >> (layer_block - 1))


def depth(layers: Iterable[str]) -> int:
    """Convolutions up to the deepest of these layers; 0 for none."""
    return max((LAYERS.index(layer) + 1 for layer in layers), default=0)


def forward_flops(layers: Iterable[str], size: Size, tile_pixels: int | None = None) -> float:
    """Of the convolutions of one pass over an image; tiles are seen with their overlap."""
    total, channels_in = 0.0, 3
    for block, _ in CONVOLUTIONS[: depth(layers)]:
        channels = BLOCKS[block - 1][0]
        pixels = layer_pixels(block, size) * seen_share(size[1], size[0], tile_pixels, block)
        total += 2 * 9 * channels_in * channels * pixels
        channels_in = channels
    return total


def gram_flops(size: Size) -> float:
    """Of the Gram matrices of one image at all style layers, however many segments share its pixels."""
    blocks = [int(layer[4]) for layer in STYLE_LAYERS]
    return float(sum(2 * BLOCKS[block - 1][0] ** 2 * layer_pixels(block, size) for block in blocks))


def step_flops(stage: Stage, request: TransferRequest, size: Size, tile_pixels: int | None = None) -> float:
    """Of one evaluation of objective and gradient, and of the optimizer's move.

    The weights never learn: the backward pass costs what the forward pass does. Tiles are seen once more for the Gram
    matrices.
    """
    size = stage_size(stage, size)
    styled = [loss for loss in stage.losses if isinstance(loss, Style | SurrogateStyle)]
    backwards = 1
    if stage.capped:
        # One backward pass for each segment's style, and one for all else that reads features.
        others = layers_of(loss for loss in stage.losses if not isinstance(loss, Style))
        backwards = sum(len(loss.segments) for loss in styled if isinstance(loss, Style)) + bool(others)
    encoder = forward_flops(layers_of(stage.losses), size, tile_pixels) * (1 + backwards)
    if tile_count(size[1], size[0], tile_pixels) > 1:
        encoder += forward_flops(layers_of(styled), size, tile_pixels)
    grams = 2 * gram_flops(size) * len(styled)
    variations = sum(isinstance(loss, TotalVariation) for loss in stage.losses)
    vectors = _optimizer_vectors(request.optimization, stage.steps) + TV_VECTORS * variations
    return encoder + grams + vectors * 3 * 4 * size[0] * size[1] * FLOPS_PER_BYTE


def style_pixels(request: TransferRequest, index: int, size: Size) -> float:
    """Of a style image as the encoder sees it: the publication's objective has it cropped to the output's size."""
    return size[0] * size[1] * (1.0 if request.paper else request.segments[index].style_scale ** 2)


def _optimizer_vectors(optimization: Optimization, steps: int) -> int:
    if optimization.optimizer is Optimizer.ADAM:
        return ADAM_VECTORS
    return LBFGS_VECTORS + LBFGS_VECTORS_PER_PAIR * min(optimization.history, steps)


def _build(
    stage: Stage, request: TransferRequest, size: Size, area: float, built: set[tuple[int, float, bool]]
) -> tuple[float, float]:
    """Of a stage's targets, of that share of the picture, and masks.

    `built` are the styles that the job has the targets of by then: those are of whole style images.
    """
    size = stage_size(stage, size)
    pixels = size[0] * size[1]
    flops = work = 0.0
    for loss in stage.losses:
        match loss:
            case Content():
                flops += area * forward_flops({CONTENT_LAYER}, size)
            case Surrogate():
                flops += forward_flops({SURROGATE_LAYER}, size)
            case SurrogateStyle():
                flops += forward_flops(STYLE_LAYERS, size) + gram_flops(size)
                work += PLAN * pixels
            case Style(segments=indices, feather=feather, harmony=harmony):
                new = {(index, harmony, stage.half) for index in indices} - built
                built |= new
                once = forward_flops(STYLE_LAYERS, size) + gram_flops(size)
                flops += sum(once * style_pixels(request, index, size) / pixels for index, _, _ in new)
                work += pixels * (area * PLAN + feather_pixels(feather, len(request.segments)))
            case TotalVariation(border_radius=float() as radius):
                work += pixels * BORDER_PER_REACH * radius
            case TotalVariation():
                pass
    return flops, work


def feather_pixels(feather: float, segments: int) -> float:
    """For each pixel of the picture: every mask is averaged twice over a square, rows and columns apart."""
    half = round(feather / 2) if feather >= 1 else 0
    return (FEATHER + (2 * half + 1) * FEATHER_TAP) * segments if half else 0.0


def _pixels_outside(request: TransferRequest, size: Size, plan: Iterable[Stage]) -> float:
    """Pictures decoded, segments found, masks and start images made, the result encoded."""
    output = size[0] * size[1]
    decoded = pixel_count(request.content) + _segmentation_pixels(request, size)
    if request.optimization.start_image is not None:
        decoded += 2 * pixel_count(request.optimization.start_image)
    # Once to check it, once for the targets.
    decoded += sum(2 * pixel_count(segment.style) for segment in request.segments if segment.style is not None)
    total = decoded + ENCODE[request.output.format] * output
    total += MASK * len(request.segments) * output
    if request.optimization.start is Start.PALETTE:
        total += sum(_recolour_pixels(stage, request, size) for stage in plan)
    return total


def _recolour_pixels(stage: Stage, request: TransferRequest, size: Size) -> float:
    """Of the start image in its styles' palettes, for which the style images are decoded once more."""
    width, height = stage_size(stage, size)
    total = 0.0
    for loss in stage.losses:
        if isinstance(loss, Style | SurrogateStyle):
            feather = loss.feather if isinstance(loss, Style) else 0.0
            total += width * height * (RECOLOUR + feather_pixels(feather, len(request.segments)))
            indices = loss.segments if isinstance(loss, Style) else styled_of(request.segments)
            total += sum(pixel_count(request.segments[index].style or b"") for index in indices)
    return total


def _segmentation_pixels(request: TransferRequest, size: Size) -> float:
    """Of the segments: their pictures decoded, and GrabCut."""
    match request.segmentation:
        case LabelMapSource(data=data):
            return pixel_count(data)
        case SoftMasks(masks=masks):
            return 2.0 * sum(pixel_count(mask.data) for mask in masks)
        case Boxes(boxes=boxes):
            # A box is looked at with its margin.
            sides = [(1 + 2 * MARGIN) ** 2 * (box.right - box.left) * (box.bottom - box.top) for box in boxes]
            return GRABCUT_BOX * sum(min(side, _grabcut_pixels(size)) for side in sides)
        case Scribbles(data=data):
            labels = sum(len(segment.labels) for segment in request.segments)
            return pixel_count(data) + GRABCUT_LABEL * labels * min(pixel_count(data), _grabcut_pixels(size))
        case Automatic():
            return 0.0


def _grabcut_pixels(size: Size) -> float:
    """What GrabCut sees of a picture of these proportions, at most."""
    return WORKING_SIDE**2 * min(size) / max(size)
