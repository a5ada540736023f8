"""Tiles: parts that a picture too large for the encoder is worked on in, one after another.

No torch here: the front process counts with them too.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from functools import cached_property

from intarsia_server.engine.vgg import BLOCKS, CONTENT_LAYER, CONVOLUTIONS, LAYERS, STYLE_LAYERS, pool_count
from intarsia_server.engine.window import GRID, Window

_DEEPEST = max(LAYERS.index(layer) for layer in (*STYLE_LAYERS, CONTENT_LAYER))


def _margin(block: int) -> int:
    """Pixels: one cell of its own layer per convolution from that block on, in whole squares of the next pooling."""
    reach = sum(1 << (later - 1) for later, _ in CONVOLUTIONS[: _DEEPEST + 1] if later >= block)
    square = 1 << block if block < len(BLOCKS) else 1
    return -(-reach // square) * square


MARGINS = tuple(_margin(block) for block in range(1, len(BLOCKS) + 1))
"""Pixels around a tile's core that each block of the encoder (from 1) has of its surroundings: as far as they still
reach into the core's cells of the deepest layer. What is cut off on the way reaches none."""

OVERLAP = MARGINS[0]
"""Pixels of its surroundings that a tile is seen with."""

MIN_CORE = 64
"""Shortest side of a core: with its overlap a smaller one would be nearly all overlap."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture.

    Attributes:
        core: what the tile stands for; the cores are the picture, without overlap.
        outer: what the encoder sees of it, so that its features in the core are those that it has in the whole picture.
    """

    core: Window
    outer: Window

    @cached_property
    def parts(self) -> tuple[Window, ...]:
        """What each block of the encoder has of the tile, as it lies in `outer`."""
        return tuple(self._with(margin).moved(-self.outer.top, -self.outer.left) for margin in MARGINS)

    def inner(self, layer: str) -> Window:
        """The core, in pixels, as it lies in what a layer has of the tile."""
        part = self.parts[pool_count(layer)]
        return self.core.moved(-self.outer.top - part.top, -self.outer.left - part.left)

    def moved(self, down: int, right: int) -> Tile:
        """The same part of a picture of which this tile's picture is a part."""
        return Tile(self.core.moved(down, right), self.outer.moved(down, right))

    def _with(self, margin: int) -> Window:
        """The core with a margin, as far as the picture goes."""
        core, outer = self.core, self.outer
        top, left = max(outer.top, core.top - margin), max(outer.left, core.left - margin)
        bottom, right = min(outer.bottom, core.bottom + margin), min(outer.right, core.right + margin)
        area = (bottom - top) * (right - left)
        return Window(top, bottom, left, right, outer.share * area / (outer.size[0] * outer.size[1]))


def tiles_of(height: int, width: int, most_pixels: int | None) -> tuple[Tile, ...]:
    """The tiles of a picture, row by row.

    Args:
        height: of the picture.
        width: of the picture.
        most_pixels: of a tile with its overlap; None: the picture is its own and only tile. No tile has a core shorter
            than `MIN_CORE` for its sake.

    Returns:
        Of all ways to cut the picture into rows and columns, that with the fewest pixels to see, overlaps counted.
    """
    rows, columns = _cut(height, width, most_pixels)
    return tuple(
        Tile(_window(y[1], x[1], height, width), _window(y[0], x[0], height, width))
        for y in _spans(height, rows)
        for x in _spans(width, columns)
    )


def tile_count(height: int, width: int, most_pixels: int | None) -> int:
    """The number of a picture's tiles."""
    rows, columns = _cut(height, width, most_pixels)
    return len(_spans(height, rows)) * len(_spans(width, columns))


def seen_share(height: int, width: int, most_pixels: int | None, block: int = 1) -> float:
    """Pixels that a block of the encoder (from 1) has of a picture in tiles, over the picture's own."""
    rows, columns = _cut(height, width, most_pixels)
    margin = MARGINS[block - 1]
    return _seen(height, rows, margin) * _seen(width, columns, margin) / (height * width)


def largest_tile(height: int, width: int, most_pixels: int | None, margin: int = OVERLAP) -> tuple[int, int]:
    """(height, width) of the largest of a picture's tiles, with its overlap or another margin around its core."""
    rows, columns = _cut(height, width, most_pixels)
    return _longest(height, rows, margin), _longest(width, columns, margin)


_Span = tuple[int, int]


def _spans(side: int, count: int, margin: int = OVERLAP) -> list[tuple[_Span, _Span]]:
    """Along one side: start and end of each tile with a margin, and of its core; about `count` of them."""
    step = -(-side // (count * GRID)) * GRID
    # A rest that is no cell of the deepest layer belongs to the tile before it.
    starts = list(range(0, max(1, side - GRID + 1), step))
    return [
        ((max(0, start - margin), min(side, end + margin)), (start, end))
        for start, end in itertools.pairwise([*starts, side])
    ]


def _longest(side: int, count: int, margin: int = OVERLAP) -> int:
    return max(end - start for (start, end), _ in _spans(side, count, margin))


def _seen(side: int, count: int, margin: int = OVERLAP) -> int:
    return sum(end - start for (start, end), _ in _spans(side, count, margin))


@functools.lru_cache
def _cut(height: int, width: int, most_pixels: int | None) -> tuple[int, int]:
    """Numbers of rows and columns."""
    if most_pixels is None or height * width <= most_pixels:
        return 1, 1
    rows, columns = ([(n, _longest(side, n), _seen(side, n)) for n in _counts(side)] for side in (height, width))
    found = [
        (tall * wide > most_pixels, seen_y * seen_x, tall * wide, row_count, column_count)
        for row_count, tall, seen_y in rows
        for column_count, wide, seen_x in columns
    ]
    if all(too_large for too_large, *_ in found):
        *_, row_count, column_count = min(found, key=lambda cut: cut[2:])
    else:
        *_, row_count, column_count = min(found)
    return row_count, column_count


def _counts(side: int) -> range:
    return range(1, max(1, side // MIN_CORE) + 1)


def _window(vertical: _Span, horizontal: _Span, height: int, width: int) -> Window:
    (top, bottom), (left, right) = vertical, horizontal
    return Window(top, bottom, left, right, (bottom - top) * (right - left) / (height * width))
