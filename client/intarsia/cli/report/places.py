"""Where borders are worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageChops, ImageFilter

__all__ = ["Place", "border_places", "crop"]

_WINDOW = 0.16
"""Side of a window over the picture's longer side."""


Window = tuple[int, int, int, int]
"""Left, upper, right and lower edge in pixels."""


class Place(NamedTuple):
    """A square window on a border: its left, upper, right and lower edge as shares of width and height."""

    left: float
    upper: float
    right: float
    lower: float
    segments: tuple[int, ...]
    """Those seen in it."""


def border_places(segments: Image.Image, kept: Sequence[int], most: int) -> list[Place]:
    """Picks windows with much border in them, none over another.

    Args:
        segments: Of `segment_map`.
        kept: Segments that stay as they are; the border between two of them is nothing to look at.
        most: How many windows at most.
    """
    merged = segments.point([kept[0] if value in kept else value for value in range(256)]) if kept else segments
    edges = ImageChops.difference(merged.filter(ImageFilter.MaxFilter(3)), merged.filter(ImageFilter.MinFilter(3)))
    edges = edges.point([0] + [1] * 255)
    side = max(8, round(_WINDOW * max(edges.size)))
    windows: list[Window] = []
    while len(windows) < most:
        window = _densest(edges, side, windows)
        if window is None:
            break
        windows.append(window)
    return [_place(window, segments) for window in windows]


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


def _densest(edges: Image.Image, side: int, taken: Sequence[Window]) -> Window | None:
    """The window with the most border in it, above all in its middle, that overlaps no other; None without any."""
    columns, rows = (max(1, round(4 * length / side)) for length in edges.size)
    cells = edges.convert("F").resize((columns, rows), Image.Resampling.BOX)
    values = memoryview(cells.tobytes()).cast("f")
    best, found = 0.0, None
    for row in range(rows):
        for column in range(columns):
            total = sum(
                values[y * columns + x] * (3 - abs(y - row)) * (3 - abs(x - column))
                for y in range(max(0, row - 2), min(rows, row + 3))
                for x in range(max(0, column - 2), min(columns, column + 3))
            )
            if total > best:
                x, y = (column + 0.5) * edges.width / columns, (row + 0.5) * edges.height / rows
                window = _around(round(x), round(y), side, edges.size)
                if not any(_overlap(window, other) for other in taken):
                    best, found = total, window
    return found


def _overlap(one: Window, other: Window) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _around(x: int, y: int, side: int, size: tuple[int, int]) -> Window:
    width, height = min(side, size[0]), min(side, size[1])
    left = min(max(x - width // 2, 0), size[0] - width)
    upper = min(max(y - height // 2, 0), size[1] - height)
    return left, upper, left + width, upper + height


def _place(box: Window, segments: Image.Image) -> Place:
    seen = tuple(index for index, count in enumerate(segments.crop(box).histogram()) if count)
    width, height = segments.size
    return Place(box[0] / width, box[1] / height, box[2] / width, box[3] / height, seen)
