"""Other workers that see some of a transfer's tiles, as the transfer knows them: not how they are reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from intarsia_server.engine.losses import Grams

Sums = Mapping[int, Mapping[str, Tensor]]
"""Shares of the picture's mean Gram matrices [R, C, C] in float64, by the loss's number and layer."""

Comparisons = Mapping[int, tuple[Grams, Tensor]]
"""What `StyleLoss.compare` gives for the whole picture, by the loss's number."""


class Part(NamedTuple):
    """A share of an evaluation: the gradient [1, 3, h, w] in the tiles' window, and the feature losses' values."""

    gradient: Tensor
    values: Tensor


class Place(NamedTuple):
    """Which of the tiles a worker sees: those of the place, counted from 0, among so many workers."""

    place: int
    of: int

    def deal(self, tiles: int) -> range:
        """The numbers of its tiles: neighbours, as many as any other worker has or one fewer or more."""
        return range(tiles * self.place // self.of, tiles * (self.place + 1) // self.of)


class TileShare(Protocol):
    """Another worker's tiles of a stage's picture. Both calls only begin; what they return waits for the end."""

    def sums(self, image: Tensor) -> Callable[[], Sums]:
        """The first pass, over the image [1, 3, h, w] in the tiles' window."""
        ...

    def part(self, compared: Comparisons) -> Callable[[], Part]:
        """The second pass, over the same image."""
        ...


class Crew(Protocol):
    """The workers that take their shares of one transfer's tiles."""

    def shares(self, stage: int) -> Sequence[TileShare]:
        """Has each get ready for a stage, given by its number, and does not wait for it; the first is of place 1."""
        ...
