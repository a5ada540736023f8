"""Every method's objective in plain float64, written from its formula: the measure of the engine's.

Nothing here is fast, and nothing comes from the engine: own network on the original input (BGR, 0 to 255, minus the
training mean), own masks, own border map, own surrogate, gradients by autograd alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor

STYLE_LAYERS = {"relu1_1": 0.75, "relu2_1": 0.5, "relu3_1": 0.2, "relu4_1": 0.2, "relu5_1": 0.2}
USED_LAYERS = (*STYLE_LAYERS, "relu4_2")
CONVOLUTIONS_PER_BLOCK = (2, 2, 4, 4, 4)
MEAN_RGB = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).reshape(1, 3, 1, 1)
STD_RGB = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).reshape(1, 3, 1, 1)
TRAINING_MEAN_BGR = torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64).reshape(1, 3, 1, 1)

PUBLISHED = {
    "gatys": SimpleNamespace(
        steps=1000, content_weight=1e5, style_weight=1e2, tv_weight=0.0, background=0, coarse_steps=0
    ),
    "masked-gram": SimpleNamespace(
        steps=1000, content_weight=1e5, style_weight=1e2, tv_weight=0.0, capped_gradients=False, coarse_steps=0
    ),
    "sequential": SimpleNamespace(
        steps=1000,
        content_weight=1e5,
        style_weight=1e2,
        smoothing_steps=40,
        smoothing_tv_weight=1.0,
        background=0,
        coarse_steps=0,
    ),
    "sequential-smooth": SimpleNamespace(
        steps=1000,
        content_weight=1e5,
        style_weight=1e2,
        smoothing_steps=40,
        smoothing_content_weight=1e4,
        smoothing_style_weight=50.0,
        smoothing_tv_weight=5e3,
        border_steps=200,
        border_tv_weight=100.0,
        border_radius=15.0,
        background=0,
        coarse_steps=0,
    ),
    "single-shot": SimpleNamespace(
        steps=1500, content_weight=1e6, style_weight=1e3, tv_weight=1e3, surrogate_weight=20.0, coarse_steps=0
    ),
}
"""The publication's knobs. Attempt 1's smoothing has TV alone, so that any weight serves; the vanilla transfer of
reference [1] and the masked Gram matrices of reference [2] take the weights of the vanilla stage."""

Terms = dict[tuple[str, int | None], Tensor]
"""Weighted losses by name and segment (None: the whole picture)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage's weights; 0 leaves a loss out.

    Attributes:
        name: of the stage.
        steps: how many.
        content: distance to the content at relu4_2.
        style: Gram distance, to the styles of `own` or of `whole`.
        own: segments whose Gram matrices are their own pixels' alone.
        whole: the segment whose style the whole picture takes.
        surrogate_style: Gram distance of the whole picture to the surrogate.
        surrogate: distance to the surrogate at relu1_1.
        tv: total variation.
        border_tv: total variation at the borders.
        border_radius: of the border map, in pixels.
    """

    name: str
    steps: int
    content: float = 0.0
    style: float = 0.0
    own: tuple[int, ...] = ()
    whole: int | None = None
    surrogate_style: float = 0.0
    surrogate: float = 0.0
    tv: float = 0.0
    border_tv: float = 0.0
    border_radius: float = 0.0


def recipes(method: str, knobs: Any, styled: Sequence[int], *, paper: bool, longer_side: int) -> list[Recipe]:
    """The stages of a method, in words: see the design's table of the publication's stages."""
    if method == "gatys":
        return [
            Recipe(
                name="vanilla",
                steps=knobs.steps,
                content=knobs.content_weight,
                style=knobs.style_weight,
                whole=knobs.background,
                tv=knobs.tv_weight,
            )
        ]
    if method == "masked-gram":
        return [
            Recipe(
                name="masked gram",
                steps=knobs.steps,
                content=knobs.content_weight,
                style=knobs.style_weight,
                own=tuple(styled),
                tv=knobs.tv_weight,
            )
        ]
    if method == "single-shot":
        return [
            Recipe(
                name="single shot",
                steps=knobs.steps,
                content=knobs.content_weight,
                surrogate_style=knobs.style_weight,
                surrogate=knobs.style_weight * knobs.surrogate_weight,
                tv=knobs.tv_weight,
            )
        ]
    transfer = Recipe(name="vanilla", steps=knobs.steps, content=knobs.content_weight, style=knobs.style_weight)
    result = [_with(transfer, whole=knobs.background)]
    for segment in styled:
        if segment != knobs.background:
            # Published: the whole picture is optimised and only the segment's pixels are kept.
            target = {"whole": segment} if paper else {"own": (segment,)}
            result.append(_with(transfer, name=f"segment {segment}", **target))
    if method == "sequential":
        return [*result, Recipe(name="smoothing", steps=knobs.smoothing_steps, tv=knobs.smoothing_tv_weight)]
    smoothing = Recipe(
        name="smoothing",
        steps=knobs.smoothing_steps,
        content=knobs.smoothing_content_weight,
        style=knobs.smoothing_style_weight,
        whole=knobs.background,
        tv=knobs.smoothing_tv_weight,
    )
    radius = 15 * longer_side / 600 if knobs.border_radius is None else knobs.border_radius
    border = Recipe(
        name="border smoothing", steps=knobs.border_steps, border_tv=knobs.border_tv_weight, border_radius=radius
    )
    return [*result, smoothing, border]


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    return Recipe(**{**recipe.__dict__, **changes})


class Vgg:
    """VGG-19 in float64 on the original weights: 2x2 average pooling, padding by replication or with zeros.

    Args:
        state: 8-bit weights: `block1_conv1_W_q` indexes `block1_conv1_W_table`, `block1_conv1_b` is the bias.
        zeros: as the publication pads; around the image, zeros of the normalised space.
    """

    def __init__(self, state: Mapping[str, Tensor], *, zeros: bool = False) -> None:
        self._zeros = zeros
        self._layers: list[tuple[int, int, Tensor, Tensor]] = []
        for block, count in enumerate(CONVOLUTIONS_PER_BLOCK, 1):
            for conv in range(1, count + 1):
                key = f"block{block}_conv{conv}"
                weight = state[f"{key}_W_table"].double()[state[f"{key}_W_q"].long()]
                self._layers.append((block, conv, weight, state[f"{key}_b"].double()))
        self._targets: dict[bytes, dict[str, Tensor]] = {}

    def target(self, image: Tensor) -> dict[str, Tensor]:
        """Feature maps of a picture that stays as it is; many tests share the same few."""
        key = image.numpy().tobytes()
        if key not in self._targets:
            with torch.no_grad():
                self._targets[key] = self(image, USED_LAYERS)
        return self._targets[key]

    def __call__(self, image: Tensor, wanted: Iterable[str]) -> dict[str, Tensor]:
        """Feature maps [C, H', W'] of an image [1, 3, H, W] in the normalised space, float64."""
        wanted = set(wanted)
        rgb = image * STD_RGB + MEAN_RGB
        x = rgb.flip(1) * 255 - TRAINING_MEAN_BGR
        found: dict[str, Tensor] = {}
        for block, conv, weight, bias in self._layers:
            if block > 1 and conv == 1:
                x = block_average(x, 2)
            x = F.conv2d(self._padded(x, first=block == conv == 1), weight, bias).clamp_min(0)
            if f"relu{block}_{conv}" in wanted:
                found[f"relu{block}_{conv}"] = x[0]
            if wanted <= found.keys():
                break
        return found

    def _padded(self, x: Tensor, *, first: bool) -> Tensor:
        if self._zeros:
            outside = (MEAN_RGB.flip(1) * 255 - TRAINING_MEAN_BGR) if first else torch.zeros(1, 1, 1, 1).double()
            height, width = x.shape[2:]
            padded = outside.expand(1, x.shape[1], height + 2, width + 2).clone()
            padded[:, :, 1:-1, 1:-1] = x
            return padded
        x = torch.cat([x[:, :, :1], x, x[:, :, -1:]], dim=2)
        return torch.cat([x[..., :1], x, x[..., -1:]], dim=3)


def block_average(x: Tensor, side: int) -> Tensor:
    """Means of side x side squares of the last two dimensions; an incomplete square at the end is left out."""
    height, width = x.shape[-2] // side, x.shape[-1] // side
    squares = x[..., : height * side, : width * side].reshape(*x.shape[:-2], height, side, width, side)
    return squares.mean(dim=(-3, -1))


def at_layer(mask: Tensor, layer: str) -> Tensor:
    """A mask [H, W] at a layer's resolution: relu2_* sees squares of 2 pixels, relu3_* of 4, and so on."""
    return block_average(mask, 2 ** (int(layer[4]) - 1))


def weighted_gram(features: Tensor, mask: Tensor) -> Tensor:
    """sum_p m(p) f_p f_p^T, [C, C]."""
    return torch.einsum("chw,hw,dhw->cd", features, mask, features)


def total_variation(image: Tensor) -> Tensor:
    """(sum dy^2 + sum dx^2) / (N C H W)."""
    dy = image[:, :, 1:, :] - image[:, :, :-1, :]
    dx = image[:, :, :, 1:] - image[:, :, :, :-1]
    return ((dy**2).sum() + (dx**2).sum()) / image.numel()


def border_variation(image: Tensor, border: Tensor) -> Tensor:
    """Sum of b |grad x|^2 / (N C H W), b of two neighbours the mean of both."""
    total = image.new_zeros(())
    for y in range(image.shape[2] - 1):
        total = total + ((border[y] + border[y + 1]) / 2 * (image[:, :, y] - image[:, :, y + 1]) ** 2).sum()
    for x in range(image.shape[3] - 1):
        between = (border[:, x] + border[:, x + 1]) / 2
        total = total + (between * (image[..., x] - image[..., x + 1]) ** 2).sum()
    return total / image.numel()


def border_map(labels: np.ndarray, radius: float) -> np.ndarray:
    """1 on pixels beside another label, falling linearly to 0 at `radius` pixels; by brute force."""
    height, width = labels.shape
    borders = [
        (y, x)
        for y in range(height)
        for x in range(width)
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if 0 <= v < height and 0 <= u < width and labels[v, u] != labels[y, x]
    ]
    result = np.zeros(labels.shape)
    if borders:
        ys, xs = np.array(borders).T
        for y in range(height):
            for x in range(width):
                distance = np.sqrt(((ys - y) ** 2 + (xs - x) ** 2).min())
                result[y, x] = max(0.0, 1.0 - distance / radius)
    return result


def normalised(pixels: np.ndarray) -> Tensor:
    """RGB bytes [H, W, 3] to the normalised space, [1, 3, H, W], float64."""
    rgb = torch.from_numpy(np.array(pixels, dtype=np.float64)).permute(2, 0, 1)[None] / 255
    return (rgb - MEAN_RGB) / STD_RGB


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What an objective is made of.

    Attributes:
        content: RGB [H, W, 3].
        labels: segment of every pixel [H, W].
        styles: per segment the style image, of any size; None keeps the segment as it is.
        covers: per segment the style image at the content's size.
        style_weights: factor per segment on its style loss.
        content_weights: factor per segment on its content loss.
    """

    content: np.ndarray
    labels: np.ndarray
    styles: Sequence[np.ndarray | None]
    covers: Sequence[np.ndarray | None]
    style_weights: Sequence[float] = (1.0, 1.0, 1.0)
    content_weights: Sequence[float] = (1.0, 1.0, 1.0)


class At(NamedTuple):
    """An image that asks for a gradient, and its feature maps."""

    image: Tensor
    features: Mapping[str, Tensor]


class Reference:
    """The objective of a stage of a scene.

    Args:
        vgg: the network.
        scene: the pictures.
        paper: the losses as the paper has them; else as Intarsia has them by default.
    """

    def __init__(self, vgg: Vgg, scene: Scene, *, paper: bool) -> None:
        self._vgg = vgg
        self._scene = scene
        self._paper = paper
        self.content = normalised(scene.content)
        self.masks = [torch.from_numpy((scene.labels == r).astype(np.float64)) for r in range(len(scene.styles))]
        self.free = torch.zeros_like(self.masks[0])
        self.surrogate = self.content.clone()
        for mask, cover in zip(self.masks, scene.covers, strict=True):
            if cover is not None:
                self.free = self.free + mask
                self.surrogate = torch.where(mask > 0, normalised(cover), self.surrogate)

    def at(self, image: Tensor) -> At:
        """An image [1, 3, H, W], normalised, made ready for `evaluate`."""
        leaf = image.detach().double().requires_grad_()
        return At(leaf, self._vgg(leaf, USED_LAYERS))

    def evaluate(self, recipe: Recipe, at: At, *, capped: bool = False) -> tuple[Terms, Tensor]:
        """Each loss at an image, and the gradient of their sum.

        Args:
            recipe: the stage.
            at: the image.
            capped: a segment's style pulls at that segment's pixels alone.
        """
        terms = self._terms(recipe, at.image, at.features)
        gradient = torch.zeros_like(at.image)
        if capped:
            for (_, segment), value in terms.items():
                (own,) = torch.autograd.grad(value, at.image, retain_graph=True)
                gradient += own if segment is None else own * self.masks[segment]
        else:
            (gradient,) = torch.autograd.grad(sum(terms.values()), at.image, retain_graph=True)
        return {key: value.detach() for key, value in terms.items()}, gradient * self.free

    def _terms(self, recipe: Recipe, image: Tensor, features: Mapping[str, Tensor]) -> Terms:
        terms: Terms = {}
        if recipe.content:
            target = self._vgg.target(self.content)["relu4_2"]
            terms["content", None] = recipe.content * self._distance(
                features, target, "relu4_2", self._scene.content_weights
            )
        for segment in recipe.own:
            terms["style", segment] = recipe.style * self._style(features, self.masks[segment], segment)
        if recipe.whole is not None and recipe.style:
            terms["style", recipe.whole] = recipe.style * self._style(features, self.free, recipe.whole)
        if recipe.surrogate_style:
            target_of = self._vgg.target(self.surrogate)
            terms["style", None] = recipe.surrogate_style * self._gram_loss(features, self.free, target_of, self.free)
        if recipe.surrogate:
            target = self._vgg.target(self.surrogate)["relu1_1"]
            terms["surrogate", None] = recipe.surrogate * self._distance(
                features, target, "relu1_1", self._scene.style_weights
            )
        if recipe.tv:
            terms["tv", None] = recipe.tv * total_variation(image)
        if recipe.border_tv:
            border = torch.from_numpy(border_map(self._scene.labels, recipe.border_radius))
            variation = total_variation(border * image) if self._paper else border_variation(image, border)
            terms["border tv", None] = recipe.border_tv * variation
        return terms

    def _distance(self, features: Mapping[str, Tensor], target: Tensor, layer: str, factors: Sequence[float]) -> Tensor:
        """mean(m (F - T)^2), over the variance of T by default; m adds up the segments' factors."""
        weight = sum(factor * at_layer(mask, layer) for factor, mask in zip(factors, self.masks, strict=True))
        mean = (weight * (features[layer] - target) ** 2).mean()
        return mean if self._paper else mean / target.var()

    def _style(self, features: Mapping[str, Tensor], mask: Tensor, segment: int) -> Tensor:
        """Loss of the pixels under a mask against a segment's style image."""
        pixels = (self._scene.covers if self._paper else self._scene.styles)[segment]
        assert pixels is not None
        style = normalised(pixels)
        everywhere = torch.ones(style.shape[-2:], dtype=torch.float64)
        loss = self._gram_loss(features, mask, self._vgg.target(style), everywhere)
        return self._scene.style_weights[segment] * loss

    def _gram_loss(
        self, features: Mapping[str, Tensor], mask: Tensor, target_features: Mapping[str, Tensor], target_mask: Tensor
    ) -> Tensor:
        """Sum over layers.

        Paper: w_l mean((G - A)^2) / (C P), G and A sums over pixels; A scaled to as many pixels as the mask has.
        Default: a w_l |G - A|^2 / |A|^2, G and A means over pixels, a the mask's share of the picture.
        """
        total = mask.new_zeros(())
        for layer, layer_weight in STYLE_LAYERS.items():
            m, target_m = at_layer(mask, layer), at_layer(target_mask, layer)
            gram, target = weighted_gram(features[layer], m), weighted_gram(target_features[layer], target_m)
            if m.sum() < 1:
                continue  # The segment has no whole pixel left here; the layer is dropped for it.
            if self._paper:
                channels, pixels = features[layer].shape[0], m.numel()
                target = target * (m.sum() / target_m.sum())
                total = total + layer_weight * ((gram - target) ** 2).mean() / (channels * pixels)
            else:
                gram, target = gram / m.sum(), target / target_m.sum()
                share = mask.mean()
                total = total + share * layer_weight * ((gram - target) ** 2).sum() / (target**2).sum()
        return total
