"""Style margin: whether each segment is nearer to its own style than to any other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intarsia_server.engine.encoder import pool_masks
from intarsia_server.engine.figures import Margin
from intarsia_server.engine.losses import Features
from intarsia_server.engine.objective import MIN_MASS
from intarsia_server.ops import build_plan, masked_gram

MARGIN_LAYERS = ("relu2_2", "relu3_3", "relu4_3")
"""None of them is in any objective, so that no method is judged by what it minimised."""

SAME_STYLE = 0.01
"""Distance under which two style images count as one."""


def unit_grams(features: Features, masks: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Gram matrices of unit Frobenius norm at each of `MARGIN_LAYERS`.

    Args:
        features: of one image, by layer [1, C, H', W'].
        masks: [R, H, W].

    Returns:
        Per layer the matrices, flat [R, C * C], and whether each segment has pixels there [R].
    """
    grams = []
    for layer in MARGIN_LAYERS:
        plan = build_plan(pool_masks(masks, layer))
        gram = masked_gram(features[layer], plan).gram[0].flatten(1)
        grams.append((torch.nn.functional.normalize(gram, dim=1), plan.mass >= MIN_MASS))
    return grams


def style_margins(
    result: Sequence[tuple[Tensor, Tensor]], styles: Sequence[Sequence[Tensor]], styled: Sequence[int], areas: Tensor
) -> tuple[Margin, ...]:
    """Distances d = sqrt(1 - <G, A> / (|G| |A|)), mean over the layers, and their ratios.

    The angle between Gram matrices, not their difference: |G - A| is smallest for the style of least energy, whatever
    the segment looks like; |G - A| / |A| is unfair to it; |G - A| / (|G| + |A|) still calls a bright segment in a pale
    style wrong. What the angle cannot see, contrast, the palette shows.

    Args:
        result: `unit_grams` of the result under every segment's mask.
        styles: per styled segment the flat unit Gram matrix [C * C] of its style image at each layer.
        styled: indices of the styled segments.
        areas: share of every segment [R].
    """
    columns = [torch.stack(column) for column in zip(*styles, strict=True)]
    apart = torch.stack([_distances(column, column) for column in columns]).mean(0)
    indices = torch.tensor(styled, device=areas.device)
    alive = torch.stack([lives[indices] for _, lives in result])
    layers = [_distances(grams[indices], column) for (grams, _), column in zip(result, columns, strict=True)]
    # A segment that is lost at a deep layer is judged by the others.
    total = (torch.stack(layers) * alive[:, :, None]).sum(dim=0) / alive.sum(dim=0)[:, None].clamp_min(1)
    margins = []
    for row, segment in enumerate(styled):
        if not bool(alive[:, row].any()):
            continue
        distance = float(total[row, row])
        others = torch.where(apart[row] > SAME_STYLE, total[row], torch.inf)
        column = int(others.argmin())
        exists = bool(apart[row, column] > SAME_STYLE)
        margins.append(
            Margin(
                segment=segment,
                area=float(areas[segment]),
                distance=distance,
                margin=distance / max(float(others[column]), 1e-6) if exists else None,
                nearest=styled[column] if exists else None,
            )
        )
    return tuple(margins)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    """[N, M] between unit rows [N, D] and [M, D]."""
    return (1 - some @ others.T).clamp_min(0).sqrt()
