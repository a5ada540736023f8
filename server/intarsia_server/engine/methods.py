"""The methods: each a list of stages built from the same losses, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from intarsia_server.engine.parameters import (
    BlendedParameters,
    GatysParameters,
    MaskedGramParameters,
    MethodParameters,
    SequentialParameters,
    SequentialSmoothParameters,
    SingleShotParameters,
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """Distance to the content image at relu4_2."""

    weight: float


@dataclass(frozen=True, kw_only=True)
class Style:
    """Gram distance of segments to their own styles.

    Attributes:
        weight: of the sum over segments.
        segments: indices; with `masked` False exactly one, whose style the whole picture takes.
        masked: whether each segment's Gram matrix is its own pixels' alone.
        feather: pixels over which the masks pass into each other, to either side of a border.
        band_weight: of the bands where two masks overlap, each with a target halfway between its two styles.
        harmony: how far the style images' palettes move towards their common barycentre, 0 to 1.
    """

    weight: float
    segments: tuple[int, ...]
    masked: bool
    feather: float = 0.0
    band_weight: float = 0.0
    harmony: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SurrogateStyle:
    """Gram distance of the whole picture to the surrogate style image."""

    weight: float


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Distance to the surrogate style image's own relu1_1 features."""

    weight: float


@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    """Total variation of the image, or with a border radius in pixels only near borders."""

    weight: float
    border_radius: float | None = None


BORDER_RADIUS = 15 / 600
"""Default reach of the border map over the output's longer side: the publication's 15 pixels at 400x600."""

FEATHER = 18 / 600
"""Default reach of `blended`'s feathering over the output's longer side."""

BORDER_REACH = 0.75
"""Reach of `blended`'s border map over the feathering's: farther out, where one mask is nearly all, there is no cut to
take away, only texture; nearer in, the cut is swept to where the map ends (docs/smoothness.md)."""

MIN_COARSE_SIDE = 64
"""Below it a picture at half size has too little of a style's large structure to be worth a stage."""

LossSpec = Content | Style | SurrogateStyle | Surrogate | TotalVariation


class StageStart(Enum):
    """The image that a stage starts from."""

    JOB = auto()
    """What the request says: content (in its styles' palettes), noise or an image."""
    FIRST = auto()
    """The result of the first stage at full size."""
    COMPOSITE = auto()
    """What the stages before have made together."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One optimisation with one objective.

    Attributes:
        name: for events; unique within a method.
        steps: evaluations of objective and gradient.
        losses: the objective.
        start: where it starts from.
        scope: only this segment's pixels enter the composite; None: all.
        capped: each style's gradient reaches only its own segment's pixels.
        half: works at half the output's size, where strokes twice as large are within the encoder's reach.
        windowed: works on the window of its scope, because nothing farther away is in its objective but content.
    """

    name: str
    steps: int
    losses: tuple[LossSpec, ...]
    start: StageStart = StageStart.JOB
    scope: int | None = None
    capped: bool = False
    half: bool = False
    windowed: bool = False

    @property
    def cost(self) -> float:
        """In steps at the output's size, for the whole picture."""
        return self.steps / 4 if self.half else self.steps


def stages(
    parameters: MethodParameters, styled: tuple[int, ...], *, paper: bool, size: tuple[int, int]
) -> tuple[Stage, ...]:
    """The stages of a method.

    Args:
        parameters: resolved.
        styled: indices of the segments that have a style.
        paper: the publication's per-segment stages match the whole picture to a style, ours only the segment.
        size: (width, height) of the output in pixels.
    """
    longer_side = max(size)
    match parameters:
        case BlendedParameters() as p:
            feather = FEATHER * longer_side if p.feather is None else p.feather
            style = Style(
                weight=p.style_weight,
                segments=styled,
                masked=True,
                feather=feather,
                band_weight=p.band_weight,
                harmony=p.harmony,
            )
            losses: tuple[LossSpec, ...] = (
                Content(weight=p.content_weight),
                style,
                TotalVariation(weight=p.tv_weight),
                TotalVariation(
                    weight=p.border_tv_weight if feather >= 1 else 0.0, border_radius=max(1.0, BORDER_REACH * feather)
                ),
            )
            return _coarse_to_fine(Stage(name="blend", steps=p.steps, losses=_present(losses)), p.coarse_steps, size)
        case GatysParameters() as p:
            losses = (
                Content(weight=p.content_weight),
                Style(weight=p.style_weight, segments=(p.background,), masked=False),
                TotalVariation(weight=p.tv_weight),
            )
            return _coarse_to_fine(Stage(name="vanilla", steps=p.steps, losses=_present(losses)), p.coarse_steps, size)
        case MaskedGramParameters() as p:
            losses = (
                Content(weight=p.content_weight),
                Style(weight=p.style_weight, segments=styled, masked=True),
                TotalVariation(weight=p.tv_weight),
            )
            stage = Stage(name="masked gram", steps=p.steps, losses=_present(losses), capped=p.capped_gradients)
            return _coarse_to_fine(stage, p.coarse_steps, size)
        case SequentialParameters() as p:
            smoothing = Stage(
                name="smoothing",
                steps=p.smoothing_steps,
                losses=_present((TotalVariation(weight=p.smoothing_tv_weight),)),
                start=StageStart.COMPOSITE,
            )
            return (*_transfers(p, styled, paper=paper, size=size), smoothing)
        case SequentialSmoothParameters() as p:
            smoothing = Stage(
                name="smoothing",
                steps=p.smoothing_steps,
                losses=_present(
                    (
                        Content(weight=p.smoothing_content_weight),
                        Style(weight=p.smoothing_style_weight, segments=(p.background,), masked=False),
                        TotalVariation(weight=p.smoothing_tv_weight),
                    )
                ),
                start=StageStart.COMPOSITE,
            )
            radius = p.border_radius or max(1.0, BORDER_RADIUS * longer_side)
            border = Stage(
                name="border smoothing",
                steps=p.border_steps,
                losses=_present((TotalVariation(weight=p.border_tv_weight, border_radius=radius),)),
                start=StageStart.COMPOSITE,
            )
            return (*_transfers(p, styled, paper=paper, size=size), smoothing, border)
        case SingleShotParameters() as p:
            losses = (
                Content(weight=p.content_weight),
                SurrogateStyle(weight=p.style_weight),
                Surrogate(weight=p.style_weight * p.surrogate_weight),
                TotalVariation(weight=p.tv_weight),
            )
            stage = Stage(name="single shot", steps=p.steps, losses=_present(losses))
            return _coarse_to_fine(stage, p.coarse_steps, size)
        case _:
            raise TypeError(f"no stages for {type(parameters).__name__}")


def _coarse_to_fine(stage: Stage, coarse_steps: int, size: tuple[int, int]) -> tuple[Stage, ...]:
    """The same objective at half size first, for what is too large to arise at full size from a good start."""
    if coarse_steps == 0 or min(size) // 2 < MIN_COARSE_SIDE:
        return (stage,)
    coarse = replace(stage, name="coarse", steps=coarse_steps, half=True, losses=_at_half_size(stage.losses))
    return coarse, replace(stage, start=StageStart.COMPOSITE)


def _at_half_size(losses: tuple[LossSpec, ...]) -> tuple[LossSpec, ...]:
    """Lengths in pixels, halved."""
    halved: list[LossSpec] = []
    for loss in losses:
        match loss:
            case Style(feather=feather):
                halved.append(replace(loss, feather=feather / 2))
            case TotalVariation(border_radius=float() as radius):
                halved.append(replace(loss, border_radius=max(1.0, radius / 2)))
            case _:
                halved.append(loss)
    return tuple(halved)


def _transfers(
    p: SequentialParameters | SequentialSmoothParameters, styled: tuple[int, ...], *, paper: bool, size: tuple[int, int]
) -> list[Stage]:
    """The vanilla stage, then one per other segment, each from the vanilla result (paper, Attempt 1)."""
    content = Content(weight=p.content_weight)
    vanilla = Style(weight=p.style_weight, segments=(p.background,), masked=False)
    first = Stage(name="vanilla", steps=p.steps, losses=_present((content, vanilla)))
    result = [*_coarse_to_fine(first, p.coarse_steps, size)]
    for index in styled:
        if index == p.background:
            continue
        style = Style(weight=p.style_weight, segments=(index,), masked=not paper)
        result.append(
            Stage(
                name=f"segment {index}",
                steps=p.steps,
                losses=_present((content, style)),
                start=StageStart.FIRST,
                scope=index,
                windowed=style.masked,
            )
        )
    return result


def _present(losses: tuple[LossSpec, ...]) -> tuple[LossSpec, ...]:
    """Drops losses of weight 0: they would cost their part of a step and say nothing."""
    return tuple(loss for loss in losses if loss.weight > 0)
