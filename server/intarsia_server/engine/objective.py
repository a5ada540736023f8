"""From a stage's loss specifications to an objective that can be evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, poll
from intarsia_server.engine.cost.work import layers_of
from intarsia_server.engine.encoder import Encoder, normalise, pool_masks
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.losses import (
    FeatureLoss,
    Gradients,
    Loss,
    StyleLoss,
    StyleTarget,
    Term,
    TotalVariationLoss,
    relative_weights,
)
from intarsia_server.engine.masks import bands, border_map, largest_overlaps, overlaps
from intarsia_server.engine.methods import Content, LossSpec, Style, Surrogate, SurrogateStyle, TotalVariation
from intarsia_server.engine.optimizers import Evaluation
from intarsia_server.engine.palette import Colours, Palette, barycentre, palette, transport
from intarsia_server.engine.request import Segment
from intarsia_server.engine.segment_masks import SegmentMasks
from intarsia_server.engine.style_images import StyleImages
from intarsia_server.engine.target_cache import Grams, JobTargets
from intarsia_server.engine.tile_share import Place, TileShare
from intarsia_server.engine.tiled_objective import (
    TiledFeatureLoss,
    TiledLoss,
    TiledObjective,
    TiledStyleLoss,
    in_layer,
)
from intarsia_server.engine.tiles import Tile, tiles_of
from intarsia_server.engine.vgg import CONTENT_LAYER, STYLE_LAYERS, SURROGATE_LAYER, pool_count
from intarsia_server.engine.window import Window, whole_of
from intarsia_server.ops import MAX_SEGMENTS, MaskPlan, build_plan, masked_gram

MIN_MASS = 1.0
"""Below one pixel's weight at a layer, a segment's Gram matrix there is mostly its neighbours'."""

ROWS = 256
"""Of a picture that are converted at a time."""

MasksOf = Callable[[Window], Tensor]
"""Gives masks [R, h, w] of a part of the picture."""


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
        cancelled: polled between the passes over the style images, and with tiles before each of them.
        targets: where the job's statistics of style images are found; None: in no other job's.
        tile_pixels: the most that the encoder sees at a time; None: every picture is seen as a whole.
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
        tile_pixels: int | None = None,
    ) -> None:
        self._encoder = encoder
        self._inputs = inputs
        self._segments = segments
        self._paper = paper
        self._cancelled = cancelled
        self.targets = targets or JobTargets()
        self._styled = list(inputs.styled)
        self._tile_pixels = tile_pixels
        self.content = self.to_image(inputs.content)
        self._whole = whole_of(*inputs.labels.shape)
        self._masks = SegmentMasks(inputs.labels, inputs.masks, inputs.styled, len(segments), self.content)
        self.free = self._masks.free(self._whole)
        """[H, W]: 1 where the image may change, 0 in kept segments."""
        self.warnings: list[tuple[str, str]] = []

    @property
    def masks(self) -> Tensor:
        """[R, H, W], a partition of unity; those of kept segments are hard. Made anew each time."""
        return self._masks(self._whole)

    def mask(self, segment: int) -> Tensor:
        """[H, W], a segment's."""
        return self._masks(self._whole, [segment])[0]

    def to_image(self, pixels: Pixels) -> Tensor:
        """RGB [H, W, 3] to the encoder's input [1, 3, H, W] on its device."""
        working = torch.promote_types(self._encoder.precision, torch.float32)
        height, width = pixels.shape[:2]
        image = torch.empty(1, 3, height, width, dtype=working, device=self._encoder.device)
        # What stands between the two takes several times their memory.
        for start in range(0, height, ROWS):
            rows = torch.from_numpy(np.array(pixels[start : start + ROWS])).to(self._encoder.device)
            image[:, :, start : start + ROWS] = normalise(rows.permute(2, 0, 1)[None].to(working) / 255)
        return image

    def build(
        self,
        specs: Sequence[LossSpec],
        *,
        capped: bool,
        window: Window | None = None,
        place: Place | None = None,
        others: Callable[[], Sequence[TileShare]] = tuple,
    ) -> Objective | TiledObjective:
        """The objective of a stage.

        Args:
            specs: its losses.
            capped: whether each style's gradient reaches only its own segment's pixels.
            window: the part of the picture that the objective is of, with the weights that it has in the whole
                picture; only for content and masked styles, whose masks have to lie in it.
            place: as of `TiledObjective`.
            others: gives those of `TiledObjective`; called where there are tiles.
        """
        part = self._whole if window is None else window
        tiles = tiles_of(*part.size, self._tile_pixels)
        losses = [self._loss(spec, window, [tile.moved(part.top, part.left) for tile in tiles]) for spec in specs]
        free = part.crop(self.free) if len(self._styled) < len(self._segments) else None
        if len(tiles) == 1:
            caps = self._masks(part) if capped else None
            return Objective(self._encoder, list(_undivided(losses, capped=capped)), free=free, caps=caps)

        def cap(segment: int, within: Window) -> Tensor:
            return self._masks(within.moved(part.top, part.left), [segment])[0]

        return TiledObjective(
            self._encoder,
            tiles,
            losses,
            layers_of(specs),
            free=free,
            caps=cap if capped else None,
            cancelled=self._cancelled,
            place=place,
            others=others(),
        )

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
                    image = self._recolour(image, (index,), self._all_free, 0.0)
                case SurrogateStyle():
                    image = self._recolour(image, self._styled, self._soft_masks(self._styled, 0.0), 0.0)
        return image

    def _recolour(self, image: Tensor, indices: Sequence[int], masks: MasksOf, harmony: float) -> Tensor:
        """Each of the masks in its style's palette, mixed by the masks' weights where they overlap."""
        sources = self._sources(image, masks, len(indices))
        targets = [self._palette(index, harmony) for index in indices]
        result = torch.empty_like(image)
        for part in self._parts():
            own = masks(part)
            flat = part.crop(image)[0].flatten(1).T
            moved = flat * (1 - own.sum(dim=0)).clamp_min(0).flatten()[:, None]
            for mask, source, target in zip(own, sources, targets, strict=True):
                inside = mask.flatten() > 0
                moved[inside] += transport(flat[inside], source, target) * mask.flatten()[inside][:, None]
            part.view(result).copy_(moved.T.reshape(1, 3, *part.size))
        return result

    def _sources(self, image: Tensor, masks: MasksOf, count: int) -> list[Palette]:
        """The palettes of what wears the masks."""
        everything, worn = Colours(), [Colours() for _ in range(count)]
        for part in self._parts():
            flat = part.crop(image)[0].flatten(1).T
            everything.add(flat)
            for colours, mask in zip(worn, masks(part), strict=True):
                # A feathered mask is at least a half in most of its own segment, and less elsewhere.
                colours.add(flat[mask.flatten() >= 0.5])
        return [(colours if colours.count else everything).palette for colours in worn]

    def _soft_masks(self, indices: Sequence[int], feather: float) -> MasksOf:
        """The segments' masks, feathered, of a part of the picture."""
        return partial(self._masks.feathered, indices=indices, feather=feather)

    def _all_free(self, part: Window) -> Tensor:
        """One mask [1, h, w] of all that may change in a part of the picture."""
        return part.crop(self.free)[None]

    def _parts(self) -> list[Window]:
        """The picture, in parts that masks are made for."""
        return [tile.core for tile in tiles_of(*self._whole.size, self._tile_pixels)]

    @cached_property
    def _middle(self) -> Palette:
        """The palette in the middle of all styles, by their segments' areas."""
        areas = self._areas(self._soft_masks(self._styled, 0.0)).tolist()
        return barycentre([self._palette(index, 0.0) for index in self._styled], areas)

    def _areas(self, masks: MasksOf) -> Tensor:
        """Sums of masks over the picture [R], in pixels."""
        sums = [masks(part).sum(dim=(1, 2)) for part in self._parts()]
        return torch.stack(sums).double().sum(dim=0).to(self.content.dtype)

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

    def _loss(self, spec: LossSpec, window: Window | None, tiles: Sequence[Tile]) -> TiledLoss:
        local = isinstance(spec, Content) or (isinstance(spec, Style) and spec.masked)
        if window is not None and not local:
            raise ValueError(f"{spec} is of the whole picture")
        match spec:
            case Content(weight=weight):
                return self._content_loss(weight, window, tiles)
            case Surrogate(weight=weight):
                return self._surrogate_loss(weight, tiles)
            case Style():
                return self._segment_style_loss(spec, tiles)
            case SurrogateStyle(weight=weight):
                return self._style_loss((None,), self._all_free, [self._surrogate_grams()], [weight], tiles)
            case TotalVariation(weight=weight, border_radius=radius):
                if radius is None:
                    return TotalVariationLoss(weight=weight)
                border = border_map(self._inputs.labels, radius).to(self.content)
                return TotalVariationLoss(weight=weight, border=border, product=self._paper)

    def _content_loss(self, weight: float, window: Window | None, tiles: Sequence[Tile]) -> TiledFeatureLoss:
        """Its targets are kept, in the encoder's precision: a thirtieth of all feature maps, they would cost a pass."""
        factors = [segment.content_weight for segment in self._segments]
        part = self._whole if window is None else window
        kept = self._features(part.crop(self.content), CONTENT_LAYER)
        variance, count = (self._variance([kept]), kept.numel()) if window is None else self._content_statistics

        def target(tile: Tile) -> Tensor:
            return in_layer(tile.core.moved(-part.top, -part.left), kept, CONTENT_LAYER)

        return self._feature_loss("content", CONTENT_LAYER, target, (weight, variance, count), factors, tiles)

    @cached_property
    def _content_statistics(self) -> tuple[float, int]:
        """Variance and number of the whole content image's features."""
        features = self._features(self.content, CONTENT_LAYER)
        return self._variance([features]), features.numel()

    def _surrogate_loss(self, weight: float, tiles: Sequence[Tile]) -> TiledFeatureLoss:
        """Its targets are made anew for each tile: the first layer's maps are the largest, and the cheapest to make."""
        image = self._surrogate()
        factors = [segment.style_weight for segment in self._segments]

        def target(tile: Tile) -> Tensor:
            poll(self._cancelled)
            with torch.no_grad():
                features = self._encoder(tile.outer.crop(image), [SURROGATE_LAYER])[SURROGATE_LAYER]
            return in_layer(tile.inner(SURROGATE_LAYER), features, SURROGATE_LAYER)

        variance = self._variance(map(target, tiles))
        count = target(tiles[0]).shape[1] * image.shape[2] * image.shape[3]
        return self._feature_loss("surrogate", SURROGATE_LAYER, target, (weight, variance, count), factors, tiles)

    def _variance(self, parts: Iterable[Tensor]) -> float:
        """Of all features of some maps."""
        count, total, squares = 0, 0.0, 0.0
        for part in parts:
            for piece in torch.split(part.permute(0, 2, 3, 1).flatten(0, 2), 2**14):
                values = piece.to(self.content.dtype)
                count += values.numel()
                total += float(values.sum(dtype=torch.float64))
                squares += float(values.square().sum(dtype=torch.float64))
        return (squares - total * total / count) / max(count - 1, 1)

    def _segment_style_loss(self, spec: Style, tiles: Sequence[Tile]) -> TiledStyleLoss:
        """Every segment against its style, and every band between two segments against the middle of theirs."""
        own = self._soft_masks(spec.segments, spec.feather) if spec.masked else self._all_free
        targets = [self._style_grams(index, spec.harmony) for index in spec.segments]
        factors = [spec.weight * self._segments[index].style_weight for index in spec.segments]
        pairs: list[tuple[int, int]] = []
        if spec.feather >= 1 and spec.band_weight > 0:
            shared = torch.stack([overlaps(own(part)) for part in self._parts()]).sum(dim=0)
            pairs, dropped = largest_overlaps(shared, most=MAX_SEGMENTS - len(targets))
            if dropped:
                message = f"{dropped} of the {len(pairs) + dropped} borders are too many; the shortest have no band"
                self.warnings.append(("bands_dropped", message))
        for one, other in pairs:
            factors.append(spec.band_weight * (factors[one] + factors[other]) / 2)
            targets.append({layer: (targets[one][layer] + targets[other][layer]) / 2 for layer in targets[one]})

        def masks(part: Window) -> Tensor:
            found = own(part)
            return torch.cat([found, bands(found, pairs)]) if pairs else found

        return self._style_loss(spec.segments, masks, targets, factors, tiles)

    def _feature_loss(
        self,
        name: str,
        layer: str,
        target: Callable[[Tile], Tensor],
        scaling: tuple[float, float, int],
        factors: Sequence[float],
        tiles: Sequence[Tile],
    ) -> TiledFeatureLoss:
        """Of the whole picture or a window of it.

        Args:
            name: of its term.
            layer: compared.
            target: gives a tile's.
            scaling: weight, the variance of the features that it is relative to, and the number of those.
            factors: on the weight, by segment.
            tiles: of the picture or the window.
        """
        weight, variance, count = scaling
        # A flat target (a plain grey picture) has no variance to measure against; the floor keeps the loss finite.
        scale = 1.0 if self._paper else max(variance, 1e-6)

        def of(number: int) -> FeatureLoss:
            tile = tiles[number]
            wanted = target(tile)
            pixel_weight = None
            if any(factor != 1 for factor in factors):
                pooled = pool_masks(self._masks(tile.core), layer)
                pixel_weight = torch.einsum("rhw,r->hw", pooled, pooled.new_tensor(factors))
            return FeatureLoss(
                name=name,
                layer=layer,
                target=wanted,
                weight=weight * wanted.numel() / count,
                scale=scale,
                pixel_weight=pixel_weight,
            )

        return TiledFeatureLoss(name, of)

    def _all(self, part: Window) -> Tensor:
        """One mask [1, h, w] of a whole part of the picture."""
        return self.content.new_ones(1, *part.size)

    def _style_loss(
        self,
        segments: tuple[int | None, ...],
        masks: MasksOf,
        grams: Sequence[Grams],
        factors: Sequence[float],
        tiles: Sequence[Tile],
    ) -> TiledStyleLoss:
        """Style loss of R masks against R sets of mean Gram matrices, in either normalisation."""
        share = self._areas(masks) / self.free.numel()
        factor = share.new_tensor(factors)
        plans = self._plans(masks, tiles)
        parts: list[dict[str, StyleTarget]] = [{} for _ in tiles]
        for layer, layer_weight in STYLE_LAYERS.items():
            mass = plans[0][layer].mass
            target = torch.stack([gram[layer] for gram in grams])
            if self._paper:
                # The paper's G = F F^T is a sum over pixels, here mass G_r: |mass (G_r - A_r)|^2 / (C^2 C P). The style
                # image is as large as the content; its share of pixels makes sums comparable.
                height, width = _bounds(tiles).pooled(pool_count(layer)).size
                weights = factor * mass.square() * (layer_weight / (target.shape[1] ** 3 * height * width))
            else:
                weights = factor * share * layer_weight * relative_weights(target)
            alive = mass >= MIN_MASS
            for segment, lives in zip(segments, alive.tolist()[: len(segments)], strict=True):
                if not lives:
                    self._warn_lost(segment, layer)
            for part, own in zip(parts, plans, strict=True):
                part[layer] = StyleTarget(plan=own[layer], grams=target, weights=weights * alive)
        return TiledStyleLoss([StyleLoss(segments=segments, targets=part) for part in parts])

    def _plans(self, masks: MasksOf, tiles: Sequence[Tile]) -> list[dict[str, MaskPlan]]:
        """Where masks lie in each tile's core, by layer, with the masses of all tiles together."""
        plans: list[dict[str, MaskPlan]] = []
        for tile in tiles:
            poll(self._cancelled)
            own = masks(tile.core)
            plans.append({layer: build_plan(pool_masks(own, layer)) for layer in STYLE_LAYERS})
        for layer in STYLE_LAYERS:
            masses = torch.stack([plan[layer].mass for plan in plans]).double()
            mass = masses.sum(dim=0).to(self.content.dtype)
            for plan in plans:
                plan[layer] = replace(plan[layer], mass=mass)
        return plans

    def _warn_lost(self, segment: int | None, layer: str) -> None:
        what = "the picture" if segment is None else f"segment {segment}"
        message = f"{what} covers less than one pixel at {layer}; its style is not matched at that layer"
        self.warnings.append(("segment_lost_at_layer", message))

    def _style_grams(self, index: int, harmony: float) -> Grams:
        """Mean Gram matrices of a segment's style image, by layer."""

        def compute() -> Grams:
            poll(self._cancelled)
            return self._grams(self._style(index, harmony), self._all)

        # An encoder never changes: the object itself tells weights, precision and device apart. The sums of tiles are
        # those of the whole but for rounding; a job's bits are not to depend on what another has left here.
        key = self._encoder, self._style_key(index, harmony), self._tile_pixels
        return self.targets.grams(key, compute)

    def _surrogate_grams(self) -> Grams:
        """Mean Gram matrices of the surrogate, by layer."""
        image = self._surrogate()
        key = self._encoder, image.shape, _sha256(image), _sha256(self.free), self._tile_pixels
        return self.targets.grams(key, lambda: self._grams(image, self._all_free))

    def _surrogate(self) -> Tensor:
        """The style images, each cut to its segment (paper, Attempt 3, figure 11); kept segments show the content."""
        image = torch.zeros_like(self.content)
        for index, pixels in enumerate(self._inputs.covers):
            own = self.content if pixels is None else self.to_image(pixels)
            for part in self._parts():
                part.view(image).add_(self._masks(part, [index]) * part.view(own))
        return image

    def _features(self, image: Tensor, layer: str) -> Tensor:
        """The feature map of an image at a layer, all of it."""
        tiles = tiles_of(image.shape[2], image.shape[3], self._tile_pixels)
        result: Tensor | None = None
        with torch.no_grad():
            for tile in tiles:
                poll(self._cancelled)
                found = self._encoder(tile.outer.crop(image), [layer], tile.parts)[layer]
                if len(tiles) == 1:
                    return found
                if result is None:
                    size = _bounds(tiles).pooled(pool_count(layer)).size
                    result = found.new_empty(1, *size, found.shape[1]).permute(0, 3, 1, 2)
                tile.core.pooled(pool_count(layer)).view(result).copy_(in_layer(tile.inner(layer), found, layer))
        assert result is not None
        return result

    def _grams(self, image: Tensor, mask: MasksOf) -> Grams:
        """Mean Gram matrix [C, C] of an image's features under one mask [1, H, W], by layer."""
        tiles = tiles_of(image.shape[2], image.shape[3], self._tile_pixels)
        sums: dict[str, Tensor] = {}
        for tile, plan in zip(tiles, self._plans(mask, tiles), strict=True):
            poll(self._cancelled)
            with torch.no_grad():
                features = self._encoder(tile.outer.crop(image), STYLE_LAYERS, tile.parts)
            for layer, feature in features.items():
                core = in_layer(tile.inner(layer), feature, layer)
                sums[layer] = sums.get(layer, 0) + masked_gram(core, plan[layer]).gram[0, 0].double()
        return {layer: gram.to(image.dtype) for layer, gram in sums.items()}


def _undivided(losses: Iterable[TiledLoss], *, capped: bool) -> Iterator[tuple[Loss, int | None]]:
    """The losses of a picture that is its own only tile, each with the segment that its gradient is capped to."""
    for loss in losses:
        match loss:
            case TiledStyleLoss(parts=(whole,)):
                if capped:
                    yield from ((replace(whole, only=place), segment) for place, segment in enumerate(whole.segments))
                else:
                    yield whole, None
            case TiledFeatureLoss():
                yield loss.of(0), None
            case TotalVariationLoss():
                yield loss, None


def _bounds(tiles: Sequence[Tile]) -> Window:
    """All of the tiles together, seen from the first one's corner."""
    first, last = tiles[0].core, tiles[-1].core
    return whole_of(last.bottom - first.top, last.right - first.left)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def _sha256(tensor: Tensor) -> bytes:
    return hashlib.sha256(_bytes(tensor)).digest()
