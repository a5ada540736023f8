"""An objective of a picture that the encoder sees tile by tile: the same losses and gradient, in the memory of a tile.

Every loss of feature maps is a function of sums over pixels, and sums can be taken tile by tile. The first pass adds up
the segments' Gram matrices, and keeps no feature map; from these follow the differences from the targets, once. The
second pass sees each tile again, and takes the gradient of its core's share back to the image, where those of
overlapping tiles add up. Features in a core are those of the whole picture, since the overlap is as wide as the
encoder's reach; losses never see those outside of it.

Sums do not mind who adds them up: other workers may see some of the tiles (`tile_share`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, poll
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.losses import (
    FeatureLoss,
    Features,
    Gradients,
    Grams,
    StyleLoss,
    Term,
    TotalVariationLoss,
)
from intarsia_server.engine.optimizers import Evaluation
from intarsia_server.engine.tile_share import Comparisons, Part, Place, Sums, TileShare
from intarsia_server.engine.tiles import Tile
from intarsia_server.engine.vgg import pool_count
from intarsia_server.engine.window import Window


@dataclass(frozen=True)
class TiledFeatureLoss:
    """A loss of feature maps.

    Attributes:
        name: of its term.
        of: makes a tile's share of it, by the tile's number: its target is too large to be kept for every tile.
    """

    name: str
    of: Callable[[int], FeatureLoss]


@dataclass(frozen=True)
class TiledStyleLoss:
    """A loss of Gram matrices.

    Attributes:
        parts: of each tile, alike in all but the plans, whose masses are those of the whole picture.
    """

    parts: Sequence[StyleLoss]


TiledLoss = TiledFeatureLoss | TiledStyleLoss | TotalVariationLoss
"""Total variation is of the image itself, which is there as a whole."""


class TiledObjective:
    """A weighted sum of losses and its gradient, as `Objective`.

    Args:
        encoder: gives the features.
        tiles: of the image.
        losses: the terms.
        layers: feature maps that they read.
        free: [H, W], 1 where the image may change, 0 where it is kept; None: everywhere.
        caps: gives a segment's mask [h, w] in a part of the image; each style's gradient then reaches only its own
            segment's pixels. None: it reaches every pixel.
        cancelled: polled before each tile.
        place: of this worker, which does a share of another's evaluations; None: it evaluates.
        others: the shares of those that help it, in the order of their places.
    """

    def __init__(
        self,
        encoder: Encoder,
        tiles: Sequence[Tile],
        losses: Sequence[TiledLoss],
        layers: frozenset[str],
        *,
        free: Tensor | None,
        caps: Callable[[int, Window], Tensor] | None,
        cancelled: Cancelled,
        place: Place | None = None,
        others: Sequence[TileShare] = (),
    ) -> None:
        self._encoder = encoder
        self._tiles = tiles
        self._losses = losses
        self._layers = layers
        self._free = free
        self._caps = caps
        self._cancelled = cancelled
        place = place or Place(0, 1 + len(others))
        self._own = place.deal(len(tiles))
        self._others = [(share, self._window(Place(number, place.of))) for number, share in enumerate(others, 1)]
        self.window = self._window(place)
        """All that its own tiles are seen with."""

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Evaluation:
        """Evaluates at an image [1, 3, H, W].

        Raises:
            CancelledError: as the work is to stop.
        """
        own = self.window.view(image)
        pending = [share.sums(window.crop(image)) for share, window in self._others]
        sums = [self.sums(own), *(wait() for wait in pending)]
        compared = self._compare(sums, image.dtype)
        begun = [share.part(compared) for share, _ in self._others]
        gradient, values = self.part(own, compared)
        if self._others:
            gradient, own = torch.zeros_like(image), gradient
            self.window.view(gradient).copy_(own)
        for wait, (_, window) in zip(begun, self._others, strict=True):
            part = wait()
            window.view(gradient).add_(part.gradient.to(gradient))
            values += part.values.to(values)
        terms: list[Term] = []
        for index, loss in enumerate(self._losses):
            match loss:
                case TiledStyleLoss(parts=parts):
                    for style, _ in self._alone(parts[0]):
                        terms += style.terms(compared[index][1])
                case TiledFeatureLoss(name=name):
                    terms.append(Term(name, None, values[index].to(image.dtype)))
                case TotalVariationLoss():
                    found = Gradients()
                    terms += loss(image, {}, found)
                    assert found.image is not None
                    gradient += found.image
        if self._free is not None:
            gradient *= self._free
        stacked = torch.stack([term.value for term in terms]) if terms else image.new_zeros(0)
        return Evaluation(tuple((term.name, term.segment) for term in terms), stacked, gradient)

    @torch.no_grad()
    def sums(self, image: Tensor) -> Sums:
        """The first pass over its own tiles, given the image [1, 3, h, w] in their window."""
        styles = {index: loss for index, loss in enumerate(self._losses) if isinstance(loss, TiledStyleLoss)}
        sums: dict[int, dict[str, Tensor]] = {index: {} for index in styles}
        for number in self._own if styles else ():
            poll(self._cancelled)
            tile = self._tiles[number]
            layers = frozenset[str]().union(*(loss.parts[number].layers for loss in styles.values()))
            found = self._encoder(self._seen(tile).crop(image), layers, tile.parts)
            features = {layer: in_layer(tile.inner(layer), feature, layer) for layer, feature in found.items()}
            for index, loss in styles.items():
                for layer, gram in loss.parts[number].grams(features).items():
                    sums[index][layer] = sums[index].get(layer, 0) + gram.double()
        return sums

    @torch.no_grad()
    def part(self, image: Tensor, compared: Comparisons) -> Part:
        """The second pass over its own tiles, given the same image and what follows from everybody's sums."""
        gradient = torch.zeros_like(image)
        values = image.new_zeros(len(self._losses), dtype=torch.float64)
        for number in self._own if self._layers else ():
            poll(self._cancelled)
            tile = self._tiles[number]
            forward = self._encoder.run(self._seen(tile).crop(image), self._layers, tile.parts)
            maps = {layer: forward.features[layer] for layer in self._layers}
            features = {layer: in_layer(tile.inner(layer), feature, layer) for layer, feature in maps.items()}
            for segment, found in self._gradients(number, features, compared, values).items():
                gradients = {
                    layer: _around(own, tile.inner(layer), maps[layer], layer) for layer, own in found.features.items()
                }
                own = forward.backward(gradients)
                if self._caps is not None and segment is not None:
                    own *= self._caps(segment, tile.outer)
                self._seen(tile).view(gradient).add_(own)
        return Part(gradient, values)

    def _compare(self, sums: Sequence[Sums], dtype: torch.dtype) -> Comparisons:
        """What follows from the Gram matrices of the whole picture, given everybody's share of them."""
        compared: dict[int, tuple[Grams, Tensor]] = {}
        for index, loss in enumerate(self._losses):
            if isinstance(loss, TiledStyleLoss):
                whole: dict[str, Tensor] = {}
                for share in sums:
                    for layer, gram in share[index].items():
                        whole[layer] = whole[layer] + gram.to(whole[layer]) if layer in whole else gram
                compared[index] = loss.parts[0].compare({layer: gram.to(dtype) for layer, gram in whole.items()})
        return compared

    def _window(self, place: Place) -> Window:
        """All that a worker's tiles are seen with."""
        seen = [self._tiles[number].outer for number in place.deal(len(self._tiles))]
        if not seen:
            return Window(0, 0, 0, 0, 0.0)
        top, left = (min(getattr(window, side) for window in seen) for side in ("top", "left"))
        bottom, right = (max(getattr(window, side) for window in seen) for side in ("bottom", "right"))
        return Window(top, bottom, left, right, sum(window.share for window in seen))

    def _seen(self, tile: Tile) -> Window:
        """What a tile is seen with, as it lies in the window."""
        return tile.outer.moved(-self.window.top, -self.window.left)

    def _gradients(
        self, number: int, features: Features, compared: Comparisons, values: Tensor
    ) -> dict[int | None, Gradients]:
        """By a core's features, for each segment that they are capped to; adds up the feature losses' values."""
        gradients: dict[int | None, Gradients] = {}
        for index, loss in enumerate(self._losses):
            match loss:
                case TiledStyleLoss(parts=parts):
                    for part, segment in self._alone(parts[number]):
                        found = gradients.setdefault(segment, Gradients())
                        part.add_gradients(features, compared[index][0], found)
                case TiledFeatureLoss(of=of):
                    found = gradients.setdefault(None, Gradients())
                    for term in of(number)(torch.empty(0), features, found):
                        values[index] += term.value
                case TotalVariationLoss():
                    pass
        return gradients

    def _alone(self, loss: StyleLoss) -> Iterator[tuple[StyleLoss, int | None]]:
        """A style loss, or each segment's alone if gradients are capped, with the segment that they are capped to."""
        if self._caps is None:
            yield loss, None
            return
        for place, segment in enumerate(loss.segments):
            yield replace(loss, only=place), segment


def in_layer(part: Window, features: Tensor, layer: str) -> Tensor:
    """The feature map of a part of the picture [1, C, h, w], channels_last, given that of the picture at a layer."""
    return part.pooled(pool_count(layer)).view(features).contiguous(memory_format=torch.channels_last)


def _around(core: Tensor, inner: Window, features: Tensor, layer: str) -> Tensor:
    """A gradient by a core's feature map as one by the tile's, where nothing else counts."""
    gradient = torch.zeros_like(features)
    inner.pooled(pool_count(layer)).view(gradient).copy_(core)
    return gradient
