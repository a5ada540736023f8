"""Where borders are worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw, ImageFilter

__all__ = ["Place", "border_places", "crop"]

_WINDOW = 0.16
"""Side of a window over the picture's longer side."""


class Place(NamedTuple):
    """A square window on a border: its left, upper, right and lower edge as shares of width and height."""

    left: float
    upper: float
    right: float
    lower: float
    segments: tuple[int, ...]
    """Those seen in it."""


def border_places(segments: Image.Image, kept: Sequence[int], most: int) -> list[Place]:
    """Picks windows with much border in them, none within another.

    Args:
        segments: Of `segment_map`.
        kept: Segments that stay as they are; the border between two of them is nothing to look at.
        most: How many windows at most.
    """
    merged = segments.point([kept[0] if value in kept else value for value in range(256)]) if kept else segments
    edges = ImageChops.difference(merged.filter(ImageFilter.MaxFilter(3)), merged.filter(ImageFilter.MinFilter(3)))
    edges = edges.point([0] + [255] * 255)
    side = max(8, round(_WINDOW * max(edges.size)))
    places: list[Place] = []
    while len(places) < most:
        density = edges.filter(ImageFilter.BoxBlur(side / 2))
        top = density.getextrema()[1]
        if not isinstance(top, int | float) or top == 0:
            break
        at = density.tobytes().index(int(top))
        box = _around(at % edges.width, at // edges.width, side, edges.size)
        places.append(_place(box, segments))
        ImageDraw.Draw(edges).rectangle(box, 0)
    return places


def crop(picture: Image.Image, place: Place, side: int) -> Image.Image:
    """Returns what is seen at a place, enlarged to `side` pixels at its longer side."""
    box = (
        place.left * picture.width,
        place.upper * picture.height,
        place.right * picture.width,
        place.lower * picture.height,
    )
    scale = side / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC, box=box)


def _around(x: int, y: int, side: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    width, height = min(side, size[0]), min(side, size[1])
    left = min(max(x - width // 2, 0), size[0] - width)
    upper = min(max(y - height // 2, 0), size[1] - height)
    return left, upper, left + width, upper + height


def _place(box: tuple[int, int, int, int], segments: Image.Image) -> Place:
    seen = tuple(index for index, count in enumerate(segments.crop(box).histogram()) if count)
    width, height = segments.size
    return Place(box[0] / width, box[1] / height, box[2] / width, box[3] / height, seen)
