"""The losses, each a small object that turns feature maps and image into weighted scalars.

Two normalisations stand side by side. The default one is free of image size, segment area and encoder scale, so that
one set of weights serves every picture. The paper's is kept exact, as the reference for tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from intarsia_server.ops import (
    MaskPlan,
    feature_loss,
    loss_scales,
    masked_gram,
    masked_gram_gradient,
    masked_gram_loss_gradient,
    masked_tv_gradient,
)

Features = Mapping[str, Tensor]
Grams = Mapping[str, Tensor]


class Term(NamedTuple):
    """One weighted loss: its name, the segment it belongs to (None: the whole picture) and its value, a scalar."""

    name: str
    segment: int | None
    value: Tensor


@dataclass
class Gradients:
    """What losses add up: gradients by feature maps, of their types, and by the image itself."""

    features: dict[str, Tensor] = field(default_factory=dict)
    image: Tensor | None = None

    def add(self, layer: str, gradient: Tensor) -> None:
        """Adds a gradient by a feature map; keeps the tensor, and may write to it."""
        if layer in self.features:
            self.features[layer] += gradient
        else:
            self.features[layer] = gradient

    def add_to_image(self, gradient: Tensor) -> None:
        """Likewise, by the image."""
        self.image = gradient if self.image is None else self.image + gradient


class Loss(Protocol):
    """A part of an objective; it makes its own gradient: autograd would keep, copy and scale what it need not."""

    @property
    def layers(self) -> frozenset[str]:
        """Feature maps it reads."""
        ...

    def __call__(self, image: Tensor, features: Features, gradients: Gradients) -> Iterator[Term]:
        """Yields its weighted terms for an image [1, 3, H, W] and its features, and adds up their gradients."""
        ...


@dataclass(frozen=True, kw_only=True)
class FeatureLoss:
    """Distance to given features: content, or the surrogate's own relu1_1 (paper, Attempt 3).

    weight * mean(m (F - T)^2) / scale, with m a map [H', W'] or 1, and scale the variance of T (default) or 1 (paper).
    """

    name: str
    layer: str
    target: Tensor
    weight: float
    scale: float = 1.0
    pixel_weight: Tensor | None = None

    @property
    def layers(self) -> frozenset[str]:
        """The one layer compared."""
        return frozenset({self.layer})

    def __call__(self, image: Tensor, features: Features, gradients: Gradients) -> Iterator[Term]:
        """Yields one term for the whole picture."""
        del image
        factor = self.weight / self.scale
        value, gradient = feature_loss(features[self.layer], self.target, self.pixel_weight, factor)
        gradients.add(self.layer, gradient)
        yield Term(self.name, None, value)


@dataclass(frozen=True, kw_only=True)
class StyleTarget:
    """What the segments' Gram matrices are compared with at one layer.

    Attributes:
        plan: where the segments lie at this layer, R of them; of a tile's core with the whole picture's masses.
        grams: target per segment [R, C, C].
        weights: factor per segment [R] on |G_r - A_r|_F^2, all normalisation in it; 0 drops a segment here.
    """

    plan: MaskPlan
    grams: Tensor
    weights: Tensor

    @cached_property
    def scales(self) -> Tensor:
        """Factor per segment [R] on the gradient's matrices, made once."""
        return loss_scales(self.weights, self.plan.mass)

    def scales_of(self, place: int) -> Tensor:
        """The same with 0 for every other segment."""
        alone = torch.zeros_like(self.scales)
        alone[place] = self.scales[place]
        return alone


@dataclass(frozen=True, kw_only=True)
class StyleLoss:
    """sum over layers and segments of weights_r |G_r - A_r|_F^2, one term per segment.

    Masks beyond `segments` are bands between two of them; together they are one more term.

    Attributes:
        segments: that the first masks are of.
        targets: by layer.
        only: the place of the one segment whose term and gradient this is; None: all of them.
    """

    segments: tuple[int | None, ...]
    targets: Mapping[str, StyleTarget]
    only: int | None = None

    @property
    def layers(self) -> frozenset[str]:
        """The style layers."""
        return frozenset(self.targets)

    def __call__(self, image: Tensor, features: Features, gradients: Gradients) -> Iterator[Term]:
        """Yields the style term of each segment, and that of the bands."""
        totals = image.new_zeros(())
        for layer, target in self.targets.items():
            # The other segments' values are worked out all the same: a value has the same bits alone and among others.
            scales = target.scales if self.only is None else target.scales_of(self.only)
            values, gradient = masked_gram_loss_gradient(
                features[layer], target.plan, target.grams, target.weights, scales
            )
            gradients.add(layer, gradient)
            totals = totals + values[0]
        yield from self.terms(totals)

    def terms(self, totals: Tensor) -> Iterator[Term]:
        """The terms, given the sum over layers of each mask [R]."""
        count = len(self.segments)
        for place, (segment, value) in enumerate(zip(self.segments, totals[:count], strict=True)):
            if self.only in (None, place):
                yield Term("style", segment, value)
        if self.only is None and len(totals) > count:
            yield Term("border style", None, totals[count:].sum())

    def grams(self, features: Features) -> Grams:
        """A tile's share in the picture's mean Gram matrices [R, C, C], by layer: those of all tiles add up to them."""
        return {layer: masked_gram(features[layer], target.plan).gram[0] for layer, target in self.targets.items()}

    def compare(self, grams: Grams) -> tuple[Grams, Tensor]:
        """Differences of the picture's mean Gram matrices from the targets, by layer, and what `terms` takes."""
        differences = {layer: grams[layer] - target.grams for layer, target in self.targets.items()}
        losses = [
            target.weights * differences[layer].square().sum(dim=(1, 2)) for layer, target in self.targets.items()
        ]
        return differences, torch.stack(losses).sum(dim=0)

    def add_gradients(self, features: Features, differences: Grams, gradients: Gradients) -> None:
        """Adds up the gradients by a tile's features, given the whole picture's differences."""
        for layer, target in self.targets.items():
            scales = target.scales if self.only is None else target.scales_of(self.only)
            gradient = masked_gram_gradient(features[layer], target.plan, differences[layer][None], scales)
            gradients.add(layer, gradient)


@dataclass(frozen=True, kw_only=True)
class TotalVariationLoss:
    """weight * TV, over the whole image or weighted by the border map ("tv" and "border tv")."""

    weight: float
    border: Tensor | None = None
    product: bool = False

    @property
    def layers(self) -> frozenset[str]:
        """None: it reads the image itself."""
        return frozenset()

    def __call__(self, image: Tensor, features: Features, gradients: Gradients) -> Iterator[Term]:
        """Yields one term for the whole picture."""
        del features
        name = "tv" if self.border is None else "border tv"
        value, gradient = masked_tv_gradient(image, self.border, product=self.product)
        gradients.add_to_image(gradient * self.weight)
        yield Term(name, None, value * self.weight)


def relative_weights(grams: Tensor) -> Tensor:
    """1 / |A_r|_F^2 per segment: makes a Gram distance relative, free of the encoder's scale."""
    return 1.0 / grams.square().sum(dim=(1, 2)).clamp_min(torch.finfo(grams.dtype).tiny)
