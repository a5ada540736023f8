"""The losses, each a small object that turns feature maps and image into weighted scalars.

Two normalisations stand side by side. The default one is free of image size, segment area and encoder scale, so that
one set of weights serves every picture. The paper's is kept exact, as the reference for tests and benchmarks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from intarsia_server.ops import MaskPlan, masked_gram_loss, masked_tv

Features = Mapping[str, Tensor]


class Term(NamedTuple):
    """One weighted loss: its name, the segment it belongs to (None: the whole picture) and its value, a scalar."""

    name: str
    segment: int | None
    value: Tensor


class Loss(Protocol):
    """A part of an objective."""

    @property
    def layers(self) -> frozenset[str]:
        """Feature maps it reads."""
        ...

    def __call__(self, image: Tensor, features: Features) -> Iterator[Term]:
        """Yields its weighted terms for an image [1, 3, H, W] and that image's features."""
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

    def __call__(self, image: Tensor, features: Features) -> Iterator[Term]:
        """Yields one term for the whole picture."""
        del image
        squared = (features[self.layer] - self.target).square()
        if self.pixel_weight is not None:
            squared = squared * self.pixel_weight
        yield Term(self.name, None, squared.mean() * (self.weight / self.scale))


@dataclass(frozen=True, kw_only=True)
class StyleTarget:
    """What the segments' Gram matrices are compared with at one layer.

    Attributes:
        plan: where the segments lie at this layer, R of them.
        grams: target per segment [R, C, C].
        weights: factor per segment [R] on |G_r - A_r|_F^2, all normalisation in it; 0 drops a segment here.
    """

    plan: MaskPlan
    grams: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class StyleLoss:
    """sum over layers and segments of weights_r |G_r - A_r|_F^2, one term per segment.

    Masks beyond `segments` are bands between two of them; together they are one more term.
    """

    segments: tuple[int | None, ...]
    targets: Mapping[str, StyleTarget]

    @property
    def layers(self) -> frozenset[str]:
        """The style layers."""
        return frozenset(self.targets)

    def __call__(self, image: Tensor, features: Features) -> Iterator[Term]:
        """Yields the style term of each segment, and that of the bands."""
        totals = image.new_zeros(())
        for layer, target in self.targets.items():
            totals = totals + masked_gram_loss(features[layer], target.plan, target.grams, target.weights)[0]
        count = len(self.segments)
        for segment, value in zip(self.segments, totals[:count], strict=True):
            yield Term("style", segment, value)
        if len(totals) > count:
            yield Term("border style", None, totals[count:].sum())


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

    def __call__(self, image: Tensor, features: Features) -> Iterator[Term]:
        """Yields one term for the whole picture."""
        del features
        name = "tv" if self.border is None else "border tv"
        yield Term(name, None, masked_tv(image, self.border, product=self.product) * self.weight)


def relative_weights(grams: Tensor) -> Tensor:
    """1 / |A_r|_F^2 per segment: makes a Gram distance relative, free of the encoder's scale."""
    return 1.0 / grams.square().sum(dim=(1, 2)).clamp_min(torch.finfo(grams.dtype).tiny)
