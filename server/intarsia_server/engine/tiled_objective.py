"""An objective of a picture that the encoder sees tile by tile: the same losses and gradient, in the memory of a tile.

Every loss of feature maps is a function of sums over pixels, and sums can be taken tile by tile. The first pass adds up
the segments' Gram matrices, and keeps no feature map; from these follow the differences from the targets, once. The
second pass sees each tile again, and takes the gradient of its core's share back to the image, where those of
overlapping tiles add up. Features in a core are those of the whole picture, since the overlap is as wide as the
encoder's reach; losses never see those outside of it.
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

_Comparisons = dict[int, tuple[Grams, Tensor]]
"""What `StyleLoss.compare` gives for the whole picture, by the loss's number."""


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
    ) -> None:
        self._encoder = encoder
        self._tiles = tiles
        self._losses = losses
        self._layers = layers
        self._free = free
        self._caps = caps
        self._cancelled = cancelled

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Evaluation:
        """Evaluates at an image [1, 3, H, W].

        Raises:
            CancelledError: as the work is to stop.
        """
        compared = self._compare(image)
        gradient = torch.zeros_like(image)
        values = image.new_zeros(len(self._losses), dtype=torch.float64)
        for number, tile in enumerate(self._tiles if self._layers else ()):
            poll(self._cancelled)
            forward = self._encoder.run(tile.outer.crop(image), self._layers)
            features = {layer: in_layer(tile.inner, forward.features[layer], layer) for layer in self._layers}
            for segment, found in self._gradients(number, features, compared, values).items():
                gradients = {layer: _around(own, tile, layer) for layer, own in found.features.items()}
                own = forward.backward(gradients)
                if self._caps is not None and segment is not None:
                    own *= self._caps(segment, tile.outer)
                tile.outer.view(gradient).add_(own)
        terms: list[Term] = []
        for index, loss in enumerate(self._losses):
            match loss:
                case TiledStyleLoss(parts=parts):
                    for part, _ in self._alone(parts[0]):
                        terms += part.terms(compared[index][1])
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

    def _compare(self, image: Tensor) -> _Comparisons:
        """The first pass: Gram matrices of the whole picture, and what follows from them."""
        styles = {index: loss for index, loss in enumerate(self._losses) if isinstance(loss, TiledStyleLoss)}
        sums: dict[int, dict[str, Tensor]] = {index: {} for index in styles}
        for number, tile in enumerate(self._tiles if styles else ()):
            poll(self._cancelled)
            layers = frozenset[str]().union(*(loss.parts[number].layers for loss in styles.values()))
            found = self._encoder(tile.outer.crop(image), layers)
            features = {layer: in_layer(tile.inner, feature, layer) for layer, feature in found.items()}
            for index, loss in styles.items():
                for layer, gram in loss.parts[number].grams(features).items():
                    sums[index][layer] = sums[index].get(layer, 0) + gram.double()
        return {
            index: loss.parts[0].compare({layer: gram.to(image.dtype) for layer, gram in sums[index].items()})
            for index, loss in styles.items()
        }

    def _gradients(
        self, number: int, features: Features, compared: _Comparisons, values: Tensor
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


def _around(core: Tensor, tile: Tile, layer: str) -> Tensor:
    """A gradient by a core's feature map as one by the tile's, where nothing else counts."""
    height, width = (side >> pool_count(layer) for side in tile.outer.size)
    gradient = core.new_zeros(1, height, width, core.shape[1]).permute(0, 3, 1, 2)
    tile.inner.pooled(pool_count(layer)).view(gradient).copy_(core)
    return gradient
