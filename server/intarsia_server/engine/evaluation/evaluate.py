"""All figures of one picture, from the fewest passes through the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, poll
from intarsia_server.engine.encoder import Encoder, normalise
from intarsia_server.engine.evaluation.borders import BorderZone, border_zones
from intarsia_server.engine.evaluation.colours import colour_quantiles, oklab, palette_step
from intarsia_server.engine.evaluation.fidelity import CONTENT_LAYER, content_distance, structure_similarity
from intarsia_server.engine.evaluation.inputs import EvaluationInputs
from intarsia_server.engine.evaluation.margins import MARGIN_LAYERS, style_margins, unit_grams
from intarsia_server.engine.evaluation.seam import seam, seam_distance
from intarsia_server.engine.evaluation.transition import (
    TRANSITION_LAYER,
    Statistics,
    statistics,
    transition_curve,
    weighted_mean,
)
from intarsia_server.engine.figures import Border, Evaluation
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.masks import segment_masks

_STYLE_LAYERS = {*MARGIN_LAYERS, TRANSITION_LAYER}
_LAYERS = _STYLE_LAYERS | {CONTENT_LAYER}


class _Style(NamedTuple):
    """What is kept of a style image: flat unit Gram matrices by layer, statistics, colours."""

    grams: list[Tensor]
    statistics: Statistics
    colours: NDArray[np.float64]


@torch.no_grad()
def evaluate(inputs: EvaluationInputs, encoder: Encoder, *, cancelled: Cancelled) -> Evaluation:
    """Judges a finished picture.

    Args:
        inputs: the pictures at the result's size.
        encoder: in float32; figures in a lower precision would not be comparable.
        cancelled: polled between the passes over the pictures, and between borders.

    Raises:
        CancelledError: `cancelled` said so.
    """
    count = len(inputs.styles)
    styles: dict[int, _Style] = {}
    for index in range(count):
        poll(cancelled)
        first = inputs.styles.first_like(index)
        if first in styles:
            styles[index] = styles[first]
        elif (pixels := inputs.styles[index]) is not None:
            styles[index] = _style(pixels, encoder)
    result, content = _rgb(inputs.result, encoder), _rgb(inputs.content, encoder)
    content_features = encoder(normalise(content), {CONTENT_LAYER})[CONTENT_LAYER]
    poll(cancelled)
    features = encoder(normalise(result), _LAYERS)
    masks = segment_masks(inputs.labels, count).to(result)
    margins = style_margins(
        unit_grams(features, masks), [style.grams for style in styles.values()], list(styles), masks.mean(dim=(1, 2))
    )
    styled = np.array([index in styles for index in range(count)])
    borders = []
    for zone in border_zones(inputs.labels, styled):
        poll(cancelled)
        borders.append(_border(inputs.result, zone, features[TRANSITION_LAYER], styles))
    lengths = [border.length for border in borders]
    distance = seam_distance(inputs.labels, styled)
    height, width = inputs.labels.shape
    return Evaluation(
        width=width,
        height=height,
        style_margin=weighted_mean([margin.margin for margin in margins], [margin.area for margin in margins]),
        margins=margins,
        seam=seam(inputs.result, distance),
        content_seam=seam(inputs.content, distance),
        transition=weighted_mean([border.jump for border in borders], lengths),
        palette=weighted_mean([border.palette for border in borders], lengths),
        borders=tuple(borders),
        content=content_distance(features[CONTENT_LAYER], content_features),
        structure=structure_similarity(result, content),
        warnings=inputs.warnings,
    )


def _style(pixels: Pixels, encoder: Encoder) -> _Style:
    image = _rgb(pixels, encoder)
    whole = torch.ones_like(image[0, :1])
    features = encoder(normalise(image), _STYLE_LAYERS)
    return _Style(
        [grams[0] for grams, _ in unit_grams(features, whole)],
        statistics(features[TRANSITION_LAYER], whole),
        colour_quantiles(oklab(pixels)),
    )


def _border(pixels: Pixels, zone: BorderZone, features: Tensor, styles: Mapping[int, _Style]) -> Border:
    first, second = styles[zone.first], styles[zone.second]
    offsets, curve, jump = transition_curve(features, zone, first.statistics, second.statistics)
    palette = palette_step(pixels, zone, first.colours, second.colours)
    return Border(zone.first, zone.second, zone.length, offsets, curve, jump, palette)


def _rgb(pixels: Pixels, encoder: Encoder) -> Tensor:
    """RGB [H, W, 3] to 0..1, [1, 3, H, W], on the encoder's device."""
    tensor = torch.from_numpy(np.array(pixels)).to(encoder.device)
    return tensor.permute(2, 0, 1)[None].float().contiguous() / 255
