"""Style images at the sizes that a job wants them in. No torch here: the front process checks sizes too."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

from intarsia_server.engine.images import Pixels, cover, decode_rgb, resize
from intarsia_server.engine.request import Segment


class Shape(Hashable, Protocol):
    """How style images are brought to size; shapes that are equal do the same."""

    def __call__(self, pixels: Pixels, segment: Segment) -> Pixels:
        """The style image of a segment, reshaped."""
        ...


@dataclass(frozen=True)
class OwnProportions:
    """The size of `style_size`, for an output of width x height."""

    width: int
    height: int

    def __call__(self, pixels: Pixels, segment: Segment) -> Pixels:
        """The style image of a segment, reshaped."""
        height, width = pixels.shape[:2]
        return resize(pixels, *style_size((width, height), segment, self.width, self.height))


@dataclass(frozen=True)
class Cover:
    """Cropped to width x height."""

    width: int
    height: int

    def __call__(self, pixels: Pixels, segment: Segment) -> Pixels:
        """The style image of a segment, reshaped."""
        del segment
        return cover(pixels, self.width, self.height)


@dataclass(frozen=True)
class Half:
    """Half as large, rounded down."""

    def __call__(self, pixels: Pixels, segment: Segment) -> Pixels:
        """The style image of a segment, reshaped."""
        del segment
        height, width = pixels.shape[:2]
        return resize(pixels, max(1, width // 2), max(1, height // 2))


@dataclass(frozen=True)
class _Then:
    """One shape after another."""

    first: Shape
    second: Shape

    def __call__(self, pixels: Pixels, segment: Segment) -> Pixels:
        """The style image of a segment, reshaped."""
        return self.second(self.first(pixels, segment), segment)


class StyleImages(Sequence[Pixels | None]):
    """One style image per segment, None for a kept one; each is decoded when asked for, and none is held.

    Hundreds of segments may each bring a style of the output's size: only one at a time has to fit into memory.
    """

    def __init__(self, segments: Sequence[Segment], shape: Shape, max_pixels: int) -> None:
        self._segments = segments
        self._shape = shape
        self._max_pixels = max_pixels
        first: dict[tuple[bytes | None, float], int] = {}
        self._first = [
            first.setdefault((segment.style, segment.style_scale), index) for index, segment in enumerate(segments)
        ]

    def first_like(self, index: int) -> int:
        """The first segment with the same bytes at the same scale, so that one pass over them serves all of these."""
        return self._first[index]

    def key(self, index: int) -> Hashable:
        """What the pixels of an image depend on, and so the same for the same pixels in any job."""
        segment = self._segments[index]
        return segment.style_sha256, segment.style_scale, self._shape

    def then(self, shape: Shape) -> StyleImages:
        """The same images, each reshaped once more."""
        return StyleImages(self._segments, _Then(self._shape, shape), self._max_pixels)

    def __len__(self) -> int:
        return len(self._segments)

    @overload
    def __getitem__(self, index: int) -> Pixels | None: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Pixels | None]: ...
    def __getitem__(self, index: int | slice) -> Pixels | Sequence[Pixels | None] | None:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        segment = self._segments[index]
        if segment.style is None:
            return None
        decoded = decode_rgb(segment.style, f"segments[{index}].style.data", max_pixels=self._max_pixels)
        return self._shape(decoded.pixels, segment)


def style_size(size: tuple[int, int], segment: Segment, width: int, height: int) -> tuple[int, int]:
    """(width, height) that gives a style image of a size the output's number of pixels, times `style_scale` squared."""
    style_width, style_height = size
    scale = segment.style_scale * math.sqrt(width * height / (style_width * style_height))
    return max(1, round(style_width * scale)), max(1, round(style_height * scale))
