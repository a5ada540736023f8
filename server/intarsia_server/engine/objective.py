"""From a stage's loss specifications to an objective that can be evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, poll
from intarsia_server.engine.encoder import Encoder, normalise, pool_masks
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.losses import (
    FeatureLoss,
    Features,
    Gradients,
    Loss,
    StyleLoss,
    StyleTarget,
    Term,
    TotalVariationLoss,
    relative_weights,
)
from intarsia_server.engine.masks import bands, border_map, feathered, segment_masks
from intarsia_server.engine.methods import Content, LossSpec, Style, Surrogate, SurrogateStyle, TotalVariation
from intarsia_server.engine.optimizers import Evaluation
from intarsia_server.engine.palette import Palette, barycentre, palette, transport
from intarsia_server.engine.request import Segment
from intarsia_server.engine.style_images import StyleImages
from intarsia_server.engine.target_cache import Grams, JobTargets
from intarsia_server.engine.vgg import CONTENT_LAYER, STYLE_LAYERS, SURROGATE_LAYER
from intarsia_server.engine.window import Window
from intarsia_server.ops import MAX_SEGMENTS, build_plan, masked_gram

MIN_MASS = 1.0
"""Below one pixel's weight at a layer, a segment's Gram matrix there is mostly its neighbours'."""


class Objective:
    """A weighted sum of losses and its gradient.

    Args:
        encoder: gives the features.
        losses: the terms, each with the segment whose pixels alone its gradient reaches (None: every pixel).
        free: [H, W], 1 where the image may change, 0 where it is kept; None: everywhere.
        caps: masks [R, H, W] of the segments; needed where losses name one.
    """

    def __init__(
        self,
        encoder: Encoder,
        losses: Sequence[tuple[Loss, int | None]],
        *,
        free: Tensor | None = None,
        caps: Tensor | None = None,
    ) -> None:
        self._encoder = encoder
        self._losses = losses
        self._layers = frozenset[str]().union(*(loss.layers for loss, _ in losses))
        self._free = free
        self._caps = caps

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Evaluation:
        """Evaluates at an image [1, 3, H, W]; one forward pass serves every layer."""
        forward = self._encoder.run(image, self._layers)
        gradients: dict[int | None, Gradients] = {}
        terms: list[Term] = []
        for loss, segment in self._losses:
            terms += loss(image, forward.features, gradients.setdefault(segment, Gradients()))
        gradient = torch.zeros_like(image)
        for segment, found in gradients.items():
            own = forward.backward(found.features)
            if found.image is not None:
                own = own + found.image
            gradient += own if segment is None or self._caps is None else own * self._caps[segment]
        if self._free is not None:
            gradient *= self._free
        values = torch.stack([term.value for term in terms]) if terms else image.new_zeros(0)
        return Evaluation(tuple((term.name, term.segment) for term in terms), values, gradient)


class ObjectiveBuilder:
    """Makes the objectives of one job's stages; computes each target once.

    Args:
        encoder: of the job.
        inputs: the job's pictures.
        segments: as requested.
        paper: whether losses take the paper's normalisation.
        cancelled: polled between the passes over the style images.
        targets: where the job's statistics of style images are found; None: in no other job's.
    """

    def __init__(
        self,
        encoder: Encoder,
        inputs: Inputs,
        segments: Sequence[Segment],
        *,
        paper: bool,
        cancelled: Cancelled,
        targets: JobTargets | None = None,
    ) -> None:
        self._encoder = encoder
        self._inputs = inputs
        self._segments = segments
        self._paper = paper
        self._cancelled = cancelled
        self.targets = targets or JobTargets()
        self._styled = list(inputs.styled)
        self.content = self.to_image(inputs.content)
        hard = segment_masks(inputs.labels, len(segments)).to(self.content)
        self.masks = hard if inputs.masks is None else torch.from_numpy(inputs.masks).to(self.content)
        """[R, H, W], a partition of unity; those of kept segments are hard."""
        self.free = hard[self._styled].sum(dim=0)
        """[H, W]: 1 where the image may change, 0 in kept segments."""
        self.warnings: list[tuple[str, str]] = []

    def to_image(self, pixels: Pixels) -> Tensor:
        """RGB [H, W, 3] to the encoder's input [1, 3, H, W] on its device."""
        tensor = torch.from_numpy(np.array(pixels)).to(self._encoder.device)
        working = torch.promote_types(self._encoder.precision, torch.float32)
        return normalise(tensor.permute(2, 0, 1)[None].to(working) / 255).contiguous()

    def build(self, specs: Sequence[LossSpec], *, capped: bool, window: Window | None = None) -> Objective:
        """The objective of a stage.

        Args:
            specs: its losses.
            capped: whether each style's gradient reaches only its own segment's pixels.
            window: the part of the picture that the objective is of, with the weights that it has in the whole
                picture; only for content and masked styles, whose masks have to lie in it.
        """
        losses: list[tuple[Loss, int | None]] = []
        for loss in (self._loss(spec, window) for spec in specs):
            if capped and isinstance(loss, StyleLoss):
                losses += [(replace(loss, only=place), segment) for place, segment in enumerate(loss.segments)]
            else:
                losses.append((loss, None))
        free = self.free if len(self._styled) < len(self._segments) else None
        caps = self.masks if capped else None
        if window is not None:
            free, caps = (None if part is None else window.crop(part) for part in (free, caps))
        return Objective(self._encoder, losses, free=free, caps=caps)

    def recolour(self, image: Tensor, specs: Sequence[LossSpec]) -> Tensor:
        """The image in the palettes of the styles that `specs` ask for, each where it applies.

        From the bare content, L-BFGS finds a picture whose Gram matrices fit while most of a segment keeps its own
        hue; from here it does not.
        """
        for spec in specs:
            match spec:
                case Style(segments=indices, masked=True, feather=feather, harmony=harmony):
                    image = self._recolour(image, indices, self._soft_masks(indices, feather), harmony)
                case Style(segments=(index,)):
                    image = self._recolour(image, (index,), self.free[None], 0.0)
                case SurrogateStyle():
                    image = self._recolour(image, self._styled, self.masks[self._styled], 0.0)
        return image

    def _recolour(self, image: Tensor, indices: Sequence[int], masks: Tensor, harmony: float) -> Tensor:
        """Each of the masks [R, H, W] in its style's palette, mixed by the masks' weights where they overlap."""
        flat = image[0].flatten(1).T
        result = flat * (1 - masks.sum(dim=0)).clamp_min(0).flatten()[:, None]
        for index, mask in zip(indices, masks, strict=True):
            # A feathered mask is at least a half in most of its own segment, and less elsewhere.
            source = palette(flat[mask.flatten() >= 0.5]) if bool((mask >= 0.5).any()) else palette(flat)
            inside = mask.flatten() > 0
            moved = transport(flat[inside], source, self._palette(index, harmony))
            result[inside] += moved * mask.flatten()[inside][:, None]
        return result.T.reshape(image.shape).contiguous()

    def _soft_masks(self, indices: Sequence[int], feather: float) -> Tensor:
        """The segments' masks, feathered; kept segments lose what lies over them to the styled ones around."""
        if feather < 1:
            return self.masks[list(indices)]
        soft = feathered(self.masks, feather)
        styled = soft[self._styled].sum(dim=0)
        soft = soft * (self.free / styled.clamp_min(torch.finfo(soft.dtype).tiny))
        return soft[list(indices)]

    @cached_property
    def _middle(self) -> Palette:
        """The palette in the middle of all styles, by their segments' areas."""
        areas = self.masks[self._styled].sum(dim=(1, 2)).tolist()
        return barycentre([self._palette(index, 0.0) for index in self._styled], areas)

    def _palette(self, index: int, harmony: float) -> Palette:
        key = self._style_key(index, harmony)
        return self.targets.palette(key, lambda: palette(self._style(index, harmony)[0].flatten(1).T))

    def _style(self, index: int, harmony: float) -> Tensor:
        """A segment's style image [1, 3, H', W'], its palette moved towards all segments' barycentre."""
        pixels = self._style_images[index]
        assert pixels is not None
        image = self.to_image(pixels)
        if harmony == 0:
            return image
        moved = transport(image[0].flatten(1).T, self._palette(index, 0.0), self._middle, strength=harmony)
        return moved.T.reshape(image.shape).contiguous()

    @property
    def _style_images(self) -> StyleImages:
        return self._inputs.covers if self._paper else self._inputs.styles

    def _style_key(self, index: int, harmony: float) -> Hashable:
        """All that `_style` depends on, without decoding the image."""
        key = self._style_images.key(index), self.content.dtype, self.content.device
        # The middle stands for all other styles and the segments' areas: nothing else of them counts.
        return key if harmony == 0 else (*key, harmony, *(_bytes(values) for values in self._middle))

    def _loss(self, spec: LossSpec, window: Window | None) -> Loss:
        local = isinstance(spec, Content) or (isinstance(spec, Style) and spec.masked)
        if window is not None and not local:
            raise ValueError(f"{spec} is of the whole picture")
        match spec:
            case Content(weight=weight):
                return self._content_loss(weight, window)
            case Surrogate(weight=weight):
                target = self._features(self._surrogate(), {SURROGATE_LAYER})[SURROGATE_LAYER]
                factors = [segment.style_weight for segment in self._segments]
                return self._feature_loss("surrogate", SURROGATE_LAYER, target, weight, factors)
            case Style():
                return self._segment_style_loss(spec, window)
            case SurrogateStyle(weight=weight):
                grams = self._surrogate_grams()
                return self._style_loss((None,), self._whole(), [grams], [weight])
            case TotalVariation(weight=weight, border_radius=radius):
                if radius is None:
                    return TotalVariationLoss(weight=weight)
                border = border_map(self._inputs.labels, radius).to(self.content)
                return TotalVariationLoss(weight=weight, border=border, product=self._paper)

    def _content_loss(self, weight: float, window: Window | None) -> FeatureLoss:
        factors = [segment.content_weight for segment in self._segments]
        image = self.content if window is None else window.crop(self.content)
        target = self._features(image, {CONTENT_LAYER})[CONTENT_LAYER]
        if window is None:
            return self._feature_loss("content", CONTENT_LAYER, target, weight, factors)
        variance, count = self._content_statistics
        weight *= target.numel() / count
        masks = window.crop(self.masks)
        return self._feature_loss("content", CONTENT_LAYER, target, weight, factors, masks=masks, variance=variance)

    @cached_property
    def _content_statistics(self) -> tuple[float, int]:
        """Variance and number of the whole content image's features."""
        features = self._features(self.content, {CONTENT_LAYER})[CONTENT_LAYER]
        return self._variance(features), features.numel()

    def _variance(self, features: Tensor) -> float:
        return float(features.to(self.content.dtype).var())

    def _segment_style_loss(self, spec: Style, window: Window | None) -> StyleLoss:
        """Every segment against its style, and every band between two segments against the middle of theirs."""
        masks = self._soft_masks(spec.segments, spec.feather) if spec.masked else self._whole()
        targets = [self._style_grams(index, spec.harmony) for index in spec.segments]
        factors = [spec.weight * self._segments[index].style_weight for index in spec.segments]
        overlaps: dict[tuple[int, int], Tensor] = {}
        if spec.feather >= 1 and spec.band_weight > 0:
            overlaps, dropped = bands(masks, most=MAX_SEGMENTS - len(masks))
            if dropped:
                message = f"{dropped} of the {len(overlaps) + dropped} borders are too many; the shortest have no band"
                self.warnings.append(("bands_dropped", message))
        for one, other in overlaps:
            factors.append(spec.band_weight * (factors[one] + factors[other]) / 2)
            targets.append({layer: (targets[one][layer] + targets[other][layer]) / 2 for layer in targets[one]})
        masks = torch.cat([masks, *(overlap[None] for overlap in overlaps.values())])
        return self._style_loss(spec.segments, masks, targets, factors, window)

    def _whole(self) -> Tensor:
        """One mask [1, H, W] of all that may change."""
        return self.free[None]

    def _feature_loss(
        self,
        name: str,
        layer: str,
        target: Tensor,
        weight: float,
        factors: Sequence[float],
        *,
        masks: Tensor | None = None,
        variance: float | None = None,
    ) -> FeatureLoss:
        """Of the whole picture, or of a part with the masks there and the whole picture's variance."""
        pixel_weight = None
        if any(factor != 1 for factor in factors):
            pooled = pool_masks(self.masks if masks is None else masks, layer)
            pixel_weight = torch.einsum("rhw,r->hw", pooled, pooled.new_tensor(factors))
        # A flat target (a plain grey picture) has no variance to measure against; the floor keeps the loss finite.
        variance = self._variance(target) if variance is None else variance
        scale = 1.0 if self._paper else max(variance, 1e-6)
        return FeatureLoss(name=name, layer=layer, target=target, weight=weight, scale=scale, pixel_weight=pixel_weight)

    def _style_loss(
        self,
        segments: tuple[int | None, ...],
        masks: Tensor,
        grams: Sequence[Mapping[str, Tensor]],
        factors: Sequence[float],
        window: Window | None = None,
    ) -> StyleLoss:
        """Style loss of R masks [R, H, W] against R sets of mean Gram matrices, in either normalisation."""
        share = masks.mean(dim=(1, 2))
        if window is not None:
            masks = window.crop(masks)
        factor = share.new_tensor(factors)
        targets: dict[str, StyleTarget] = {}
        for layer, layer_weight in STYLE_LAYERS.items():
            pooled = pool_masks(masks, layer)
            plan = build_plan(pooled)
            target = torch.stack([gram[layer] for gram in grams])
            if self._paper:
                # The paper's G = F F^T is a sum over pixels, here mass G_r: |mass (G_r - A_r)|^2 / (C^2 C P). The style
                # image is as large as the content; its share of pixels makes sums comparable.
                channels, pixels = target.shape[1], pooled.shape[1] * pooled.shape[2]
                weights = factor * plan.mass.square() * (layer_weight / (channels**3 * pixels))
            else:
                weights = factor * share * layer_weight * relative_weights(target)
            alive = plan.mass >= MIN_MASS
            for segment, lives in zip(segments, alive.tolist()[: len(segments)], strict=True):
                if not lives:
                    self._warn_lost(segment, layer)
            targets[layer] = StyleTarget(plan=plan, grams=target, weights=weights * alive)
        return StyleLoss(segments=segments, targets=targets)

    def _warn_lost(self, segment: int | None, layer: str) -> None:
        what = "the picture" if segment is None else f"segment {segment}"
        message = f"{what} covers less than one pixel at {layer}; its style is not matched at that layer"
        self.warnings.append(("segment_lost_at_layer", message))

    def _style_grams(self, index: int, harmony: float) -> Grams:
        """Mean Gram matrices of a segment's style image, by layer."""

        def compute() -> Grams:
            poll(self._cancelled)
            image = self._style(index, harmony)
            return self._grams(self._features(image, STYLE_LAYERS), torch.ones_like(image[0, :1]))

        # An encoder never changes: the object itself tells weights, precision and device apart.
        return self.targets.grams((self._encoder, self._style_key(index, harmony)), compute)

    def _surrogate_grams(self) -> Grams:
        """Mean Gram matrices of the surrogate, by layer."""
        image, mask = self._surrogate(), self._whole()
        key = self._encoder, image.shape, _sha256(image), _sha256(mask)
        return self.targets.grams(key, lambda: self._grams(self._features(image, STYLE_LAYERS), mask))

    def _surrogate(self) -> Tensor:
        """The style images, each cut to its segment (paper, Attempt 3, figure 11); kept segments show the content."""
        image = torch.zeros_like(self.content)
        for mask, pixels in zip(self.masks, self._inputs.covers, strict=True):
            image += mask * (self.content if pixels is None else self.to_image(pixels))
        return image

    def _features(self, image: Tensor, layers: Iterable[str]) -> Features:
        with torch.no_grad():
            return self._encoder(image, layers)

    @staticmethod
    def _grams(features: Features, mask: Tensor) -> dict[str, Tensor]:
        """Mean Gram matrix [C, C] of feature maps under a mask [1, H, W], by layer."""
        return {
            layer: masked_gram(feature, build_plan(pool_masks(mask, layer))).gram[0, 0]
            for layer, feature in features.items()
        }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _sha256(tensor: Tensor) -> bytes:
    return hashlib.sha256(_bytes(tensor)).digest()
