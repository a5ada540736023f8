"""The part of a picture that a segment's own stage works on: the segment, and what reaches into its features.

No torch at run time here: the front process knows windows too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 48
"""Pixels to each side of a segment's bounding box; what is farther away does not show in it (docs/methods.md)."""

GRID = 16
"""A window starts and ends on multiples of it: pooled four times, its cells are the picture's own."""

WHOLE = 0.9
"""A window of more than this share of the picture saves too little; the stage then takes the whole picture."""


@dataclass(frozen=True)
class Window:
    """A rectangle of a picture.

    Attributes:
        top, bottom, left, right: in pixels. Of a segment's window and of a tile's core, each a multiple of `GRID` or
            at the picture's edge.
        share: of the picture's area, 0 to 1.
    """

    top: int
    bottom: int
    left: int
    right: int
    share: float

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def moved(self, down: int, right: int) -> Window:
        """As it lies in a picture whose top left corner is elsewhere."""
        return Window(self.top + down, self.bottom + down, self.left + right, self.right + right, self.share)

    def pooled(self, times: int) -> Window:
        """As it lies in a map that has been pooled so often, which rounds down."""
        return Window(self.top >> times, self.bottom >> times, self.left >> times, self.right >> times, self.share)

    def grown(self, margin: int, height: int, width: int) -> Window:
        """With a margin, as far as the picture goes."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        bottom, right = min(height, self.bottom + margin), min(width, self.right + margin)
        return Window(top, bottom, left, right, (bottom - top) * (right - left) / (height * width))

    def view(self, picture: Tensor) -> Tensor:
        """The part of a picture, to be written to."""
        return picture[..., self.top : self.bottom, self.left : self.right]

    def crop(self, picture: Tensor) -> Tensor:
        """The part [..., H', W'] of something of the picture's size [..., H, W]."""
        return self.view(picture).contiguous()

    def paste(self, part: Tensor, onto: Tensor) -> Tensor:
        """A copy of the picture [..., H, W] with another part [..., H', W']."""
        whole = onto.clone()
        self.view(whole).copy_(part)
        return whole


def whole_of(height: int, width: int) -> Window:
    """All of a picture."""
    return Window(0, height, 0, width, 1.0)


def window_around(mask: Tensor) -> Window | None:
    """The window of a segment.

    Args:
        mask: [H, W], above 0 in the segment, which has some pixel.

    Returns:
        Its bounding box with `MARGIN`; None: that is nearly the whole picture.
    """
    occupied = mask > 0
    return window_of(occupied.any(dim=1).cpu().numpy(), occupied.any(dim=0).cpu().numpy())


def window_of(rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> Window | None:
    """The same, given which rows [H] and columns [W] the segment has pixels in."""
    top, bottom = _around(rows)
    left, right = _around(columns)
    share = (bottom - top) * (right - left) / (len(rows) * len(columns))
    return None if share > WHOLE else Window(top, bottom, left, right, share)


def _around(occupied: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last pixel (exclusive) along a side whose pixels are occupied or not."""
    found = np.flatnonzero(occupied)
    first, last = int(found[0]), int(found[-1])
    start = (first - MARGIN) // GRID * GRID
    end = -(-(last + 1 + MARGIN) // GRID) * GRID
    return max(0, start), min(len(occupied), end)
