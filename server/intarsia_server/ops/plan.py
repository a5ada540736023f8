"""Where the segments of one layer lie: made once per mask and layer, never in the step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 64
"""Entries a tile; every kernel works on whole tiles."""

MAX_SEGMENTS = 256


@dataclass(frozen=True)
class MaskPlan:
    """The non-zero weights of R masks, in the order in which the kernels read them.

    An *entry* is a pixel of a segment with its weight. A pixel may belong to several segments; its entries are dealt
    to K *passes* so that a pass holds each pixel at most once. Pass 0 holds every pixel of the layer: those of no
    segment go to a pseudo segment with number R. So a gradient can be written in K passes without two threads on one
    pixel. Hard masks have one pass. Entries are sorted by pass, segment and pixel; each (pass, segment) is a *group*,
    padded to whole tiles, so that no tile has two segments.

    Attributes:
        indices: row-major pixel index of each entry, int32 [64 T]; -1 in padding.
        weights: weight of each entry [64 T], in the masks' type; None when all are 1.
        tile_segments: segment of each tile, 0..R, int32 [T].
        group_tiles: int32 [K, R + 2]; the tiles of group (k, r) are group_tiles[k, r] to group_tiles[k, r + 1] - 1.
        mass: sum of each segment's weights [R]; 0 for a segment that has none left at this layer.
        shape: (H, W) of the layer.
    """

    indices: Tensor
    weights: Tensor | None
    tile_segments: Tensor
    group_tiles: Tensor
    mass: Tensor
    shape: tuple[int, int]


def build_plan(masks: Tensor) -> MaskPlan:
    """Lists the non-zero weights of masks [R, H, W], float32 or float64, values in 0..1.

    Raises:
        ValueError: more than 256 masks or 2^31 pixels, or masks that ask for a gradient.
    """
    segments, height, width = masks.shape
    if masks.requires_grad:
        raise ValueError("masks have no gradient: detach them")
    if not 1 <= segments <= MAX_SEGMENTS:
        raise ValueError(f"{segments} masks; 1 to {MAX_SEGMENTS} are supported")
    if height * width >= 2**31:
        raise ValueError(f"masks of {height}x{width} have more than 2^31 - 1 pixels")
    flat = masks.reshape(segments, height * width)
    segment, pixel, passes = _entries(flat)
    count = int(passes.max()) + 1 if passes.numel() else 1
    pseudo = segment == segments
    weight = flat[segment.clamp_max(segments - 1), pixel]
    soft = (weight != 1) & ~pseudo
    # What weighs 1 is cheaper to multiply where it is not mixed with what does not.
    key, order = torch.sort(2 * (passes * (segments + 1) + segment) + soft, stable=True)
    key = key // 2
    pixel, segment, weight, pseudo = pixel[order], segment[order], weight[order], pseudo[order]

    sizes = torch.bincount(key, minlength=count * (segments + 1))
    tiles = (sizes + TILE - 1) // TILE
    ends = tiles.cumsum(0)
    starts = ends - tiles
    rank = torch.arange(len(key), device=masks.device) - (sizes.cumsum(0) - sizes)[key]
    position = starts[key] * TILE + rank
    total = int(ends[-1])
    indices = torch.full((total * TILE,), -1, dtype=torch.int32, device=masks.device)
    indices[position] = pixel.to(torch.int32)
    weights = None
    if bool(soft.any()):
        weights = flat.new_zeros(total * TILE)
        weights[position] = weight.masked_fill(pseudo, 0)
    group = torch.arange(count * (segments + 1), device=masks.device) % (segments + 1)
    return MaskPlan(
        indices=indices,
        weights=weights,
        tile_segments=group.repeat_interleave(tiles).to(torch.int32),
        group_tiles=torch.cat([starts.view(count, -1), ends.view(count, -1)[:, -1:]], dim=1).to(torch.int32),
        mass=flat.sum(dim=1, dtype=torch.float64).to(flat.dtype),
        shape=(height, width),
    )


def _entries(flat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Segment, pixel and pass of every entry, int64, by segment and pixel; the pseudo segment last."""
    segments, pixels = flat.shape
    seen = torch.zeros(pixels, dtype=torch.int64, device=flat.device)
    parts = []
    for number, row in enumerate(flat):
        pixel = row.nonzero().squeeze(1)
        parts.append((torch.full_like(pixel, number), pixel, seen[pixel]))
        seen[pixel] += 1
    rest = (seen == 0).nonzero().squeeze(1)
    parts.append((torch.full_like(rest, segments), rest, torch.zeros_like(rest)))
    segment, pixel, passes = (torch.cat(column) for column in zip(*parts, strict=True))
    return segment, pixel, passes
