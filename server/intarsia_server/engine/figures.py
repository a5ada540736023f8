"""What an evaluation finds, in figures. No torch here: the front process passes them on.

docs/evaluation.md says how to read them; a figure that has no meaning for a picture is None, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from intarsia_server.engine.events import Warnings


@dataclass(frozen=True)
class Margin:
    """Whether a segment looks like its own style.

    Attributes:
        segment: index into the request's segments.
        area: its share of the picture, 0..1.
        distance: to its own style, 0 (same) to 1.
        margin: that distance over the one to the nearest other style; under 1 is right, smaller is better. None when
            the request has no other style.
        nearest: the segment that has the nearest other style; None without one.
    """

    segment: int
    area: float
    distance: float
    margin: float | None
    nearest: int | None


@dataclass(frozen=True)
class Seam:
    """How much the borders stand out from what lies beside them.

    Attributes:
        value: 1 or more; 1 is invisible.
        distances: from a border in whole pixels, 0 to 15; those at which too few pixels lie are left out.
        profile: mean colour gradient at each distance over that of the ring beside the border. Well over 1 is a cut,
            well under 1 a smear.
    """

    value: float
    distances: tuple[int, ...]
    profile: tuple[float, ...]


@dataclass(frozen=True)
class Border:
    """How one style passes into another, across the border of two styled segments.

    Attributes:
        first: the segment with the lower index.
        second: the other one.
        length: how many pairs of neighbouring pixels it separates.
        offsets: middle of each bin of signed distance in pixels, negative within `first`; bins with too few pixels are
            left out.
        curve: where each bin stands between the two styles, 0 (the first's) to 1 (the second's); may lie outside.
        jump: the largest step of the curve between neighbouring bins, 0 or more; None without two neighbours.
        palette: colour distance of the two sides over that of their styles, 0 or more; None for styles of one palette.
    """

    first: int
    second: int
    length: int
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
        style_margin: mean of the margins, weighted by area; None with one style.
        margins: of every styled segment that is large enough to have a Gram matrix.
        seam: of the borders of styled segments; None without one.
        content_seam: the same of the content image.
        transition: mean of the borders' jumps, weighted by length; 1 is a cut. None without such a border.
        palette: mean of the borders' palette figures, weighted by length; 1 is as far apart as the style images.
        borders: between every two styled segments that touch.
        content: feature distance to the content image over the content's own variance, 0 or more.
        structure: similarity of luminance gradients to the content's, -1 to 1; 1 is the same.
        warnings: what had to be worked around, which the figures may depend on.
    """

    width: int
    height: int
    style_margin: float | None
    margins: tuple[Margin, ...]
    seam: Seam | None
    content_seam: Seam | None
    transition: float | None
    palette: float | None
    borders: tuple[Border, ...]
    content: float
    structure: float
    warnings: Warnings
