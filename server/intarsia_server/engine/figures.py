"""What an evaluation finds, in figures. No torch here: the front process passes them on.

docs/evaluation.md says how to read them; a figure that has no meaning for a picture is None, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Whether a segment looks like its own style.

    Attributes:
        segment: index into the request's segments.
        area: its share of the picture, 0..1.
        margin: distance to its own style over the distance to the nearest other; under 1 is right, smaller is better.
            None when the request has no other style.
        distance: to its own style, 0 (same) to 1.
        nearest: the segment whose style is the nearest other one; None without one.
    """

    segment: int
    area: float
    margin: float | None
    distance: float
    nearest: int | None


@dataclass(frozen=True, kw_only=True)
class Border:
    """How one style passes into another, across the border of two styled segments.

    Attributes:
        first: the segment with the lower index.
        second: the other one.
        length: pixels of the border, both sides together over two.
        offsets: middle of each bin of signed distance in pixels, negative within `first`; bins with too few pixels are
            left out.
        curve: where each bin stands between the two styles, 0 (the first's) to 1; may lie outside.
        jump: the largest step of the curve between neighbouring bins; None without two neighbours.
        palette: colour distance of the two sides over that of their styles; None for styles of one palette.
    """

    first: int
    second: int
    length: float
    offsets: tuple[float, ...]
    curve: tuple[float, ...]
    jump: float | None
    palette: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of one picture.

    Attributes:
        width: of the result, in pixels; all distances in pixels are at this size.
        height: likewise.
        margins: of every styled segment.
        style_margin: mean of the margins, weighted by area; None with one style.
        seam: how visible the borders are; 1 when they look like what lies beside them. None without a border.
        content_seam: the same figure of the content image.
        transition: mean of the borders' jumps, weighted by length, 0 to about 1. None without such a border.
        palette: mean of the borders' palette figures, weighted by length.
        borders: between every two styled segments that touch.
        content: feature distance to the content image over the content's own variance, 0 or more.
        structure: similarity of luminance gradients to the content's, -1 to 1; 1 is the same.
    """

    width: int
    height: int
    margins: tuple[Margin, ...]
    style_margin: float | None
    seam: float | None
    content_seam: float | None
    transition: float | None
    palette: float | None
    borders: tuple[Border, ...]
    content: float
    structure: float
