"""The publication's procedure, ported plainly: the baseline that Intarsia is measured against, never used by it.

Tamir, "A Smoother Segmentation-Based Style Transfer - With Multiple Styles", section C. As published: each layer has
a network of its own, from the image to that layer, so that a step with content and style makes six passes; zero
padding; average pooling; fp32; Adam at 0.01 from noise; the style is matched over the whole picture in every stage.
Nothing is slower than that asks for: targets are computed once, weights are frozen and need no gradient, ReLUs work in
place, and a loss that a stage does not have costs no pass.

Where the published code and the paper's text differ, this follows the text: gamma weighs the total variation in the
single shot (the code multiplies it with the style loss), and the stages per segment keep the content loss.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from intarsia_server.engine.encoder import normalise
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.masks import border_map
from intarsia_server.engine.vgg import CONVOLUTIONS
from intarsia_server.engine.weights import ConvolutionWeights
from torch import Tensor, nn

STYLE_LAYERS = {"relu1_1": 0.75, "relu2_1": 0.5, "relu3_1": 0.2, "relu4_1": 0.2, "relu5_1": 0.2}
"""Style layers and their weights w_l."""

CONTENT_LAYER = "relu4_2"
SURROGATE_LAYER = "relu1_1"
LEARNING_RATE = 0.01
BORDER_RADIUS = 15.0
"""Reach of the border map in pixels, whatever the size of the picture."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The paper's alpha (content), beta (style), gamma (total variation) and delta (surrogate); 0 drops the loss."""

    content: float = 0.0
    style: float = 0.0
    tv: float = 0.0
    surrogate: float = 0.0


VANILLA = Weights(content=1e5, style=1e2)
"""Also of the stages per segment."""
SMOOTHING = Weights(tv=1.0)
"""Attempt 1. No weight is given, and Adam's moves do not depend on the scale of a lone loss."""
BLENDED_SMOOTHING = Weights(content=1e4, style=50.0, tv=5e3)
"""Attempt 2."""
BORDER_SMOOTHING = Weights(tv=100.0)
SINGLE_SHOT = Weights(content=1e6, style=1e3, tv=1e3, surrogate=20.0)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Steps of each stage; the defaults are the publication's."""

    vanilla: int = 1000
    segment: int = 1000
    smoothing: int = 40
    border: int = 200
    single_shot: int = 1500


@dataclass(frozen=True)
class Step:
    """A step that is done: its stage, its number from 1, and the objective before its move."""

    stage: str
    number: int
    total: float


Steps = Generator[Step, None, Tensor]
"""Yields each step once it is done; returns the image [1, 3, H, W], normalised."""


def prefixes(weights: ConvolutionWeights) -> dict[str, nn.Sequential]:
    """The network from the image to each layer's ReLU, by layer; they share their modules, not their passes."""
    modules: list[nn.Module] = []
    found: dict[str, nn.Sequential] = {}
    for (block, conv), (weight, bias) in zip(CONVOLUTIONS, weights, strict=True):
        if conv == 1 and block > 1:
            modules.append(nn.AvgPool2d(2))
        modules += [_convolution(weight, bias), nn.ReLU(inplace=True)]
        layer = f"relu{block}_{conv}"
        if layer in STYLE_LAYERS or layer == CONTENT_LAYER:
            found[layer] = nn.Sequential(*modules)
    return found


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    module = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    module.load_state_dict({"weight": weight, "bias": bias})
    return module.requires_grad_(False)


def gram(feature: Tensor) -> Tensor:
    """G = F F^T [C, C], not normalised, of a feature map [1, C, H, W]."""
    rows = feature[0].flatten(1)
    return rows @ rows.T


def total_variation(image: Tensor) -> Tensor:
    """(sum dy^2 + sum dx^2) / (N C H W)."""
    dy = (image[:, :, 1:] - image[:, :, :-1]).square().sum()
    dx = (image[:, :, :, 1:] - image[:, :, :, :-1]).square().sum()
    return (dy + dx) / image.numel()


class Objective:
    """alpha content + beta (style + delta surrogate) + gamma TV, at an image [1, 3, H, W] (paper, section C).

    Args:
        networks: of `prefixes`.
        weights: of the losses.
        content: image to take the content from.
        style: image to take the style from, and with `weights.surrogate` its relu1_1 features too.
        border: map [H, W] that the image is multiplied with before its total variation (Attempt 2, figure 8).
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Sequential],
        weights: Weights,
        *,
        content: Tensor,
        style: Tensor,
        border: Tensor | None = None,
    ) -> None:
        self._networks = networks
        self._weights = weights
        self._border = border
        with torch.no_grad():
            self._content = networks[CONTENT_LAYER](content) if weights.content else None
            self._grams = {layer: gram(networks[layer](style)) for layer in STYLE_LAYERS} if weights.style else {}
            self._surrogate = networks[SURROGATE_LAYER](style) if weights.surrogate else None

    def __call__(self, image: Tensor) -> Tensor:
        """The objective, a scalar; every layer's features are computed from the image anew."""
        total = image.new_zeros(())
        if self._content is not None:
            feature = self._networks[CONTENT_LAYER](image)
            total = total + self._weights.content * (feature - self._content).square().mean()
        for layer, target in self._grams.items():
            feature = self._networks[layer](image)
            style = (gram(feature) - target).square().mean() / feature[0].numel()
            total = total + self._weights.style * STYLE_LAYERS[layer] * style
            if layer == SURROGATE_LAYER and self._surrogate is not None:
                surrogate = (feature - self._surrogate).square().mean()
                total = total + self._weights.style * self._weights.surrogate * surrogate
        if self._weights.tv:
            smoothed = image if self._border is None else image * self._border
            total = total + self._weights.tv * total_variation(smoothed)
        return total


class Published:
    """The three attempts on one job's pictures, each a generator of steps.

    Args:
        weights: of the encoder, for normalised RGB.
        inputs: the pictures at the working size; the style images are cropped to it. Segment 0 is the background.
        schedule: steps of each stage.
        seed: of the noise that every attempt starts from.

    Raises:
        ValueError: a segment without a style; the publication has none.
    """

    def __init__(
        self, weights: ConvolutionWeights, inputs: Inputs, *, schedule: Schedule | None = None, seed: int = 0
    ) -> None:
        self._networks = prefixes(weights)
        self._schedule = schedule or Schedule()
        self._content = to_image(inputs.content)
        self._styles = [to_image(pixels) for pixels in inputs.covers if pixels is not None]
        if len(self._styles) < len(inputs.covers):
            raise ValueError("the published procedure styles every segment")
        labels = torch.from_numpy(inputs.labels)
        self._masks = [labels == index for index in range(len(self._styles))]
        self._border = border_map(inputs.labels, BORDER_RADIUS)
        self._noise = torch.randn(self._content.shape, generator=torch.Generator().manual_seed(seed))

    def attempt_1(self) -> Steps:
        """A transfer per segment, then total variation alone over the composite."""
        image = yield from self._transfers()
        return (yield from self._stage("smoothing", self._schedule.smoothing, SMOOTHING, image))

    def attempt_2(self) -> Steps:
        """As Attempt 1, but the smoothing keeps content and background style; then the borders are smoothed."""
        image = yield from self._transfers()
        image = yield from self._stage("smoothing", self._schedule.smoothing, BLENDED_SMOOTHING, image)
        steps = self._schedule.border
        return (yield from self._stage("border smoothing", steps, BORDER_SMOOTHING, image, border=self._border))

    def attempt_3(self) -> Steps:
        """One transfer with a surrogate style image, made of the style images by the segmentation (figure 11)."""
        steps = self._schedule.single_shot
        return (yield from self._stage("single shot", steps, SINGLE_SHOT, self._noise, style=self.surrogate()))

    def surrogate(self) -> Tensor:
        """The style images, each cut to its segment, [1, 3, H, W]."""
        image = self._styles[0]
        for mask, style in zip(self._masks[1:], self._styles[1:], strict=True):
            image = torch.where(mask, style, image)
        return image

    def _transfers(self) -> Steps:
        """The background's style over the whole picture, then each other segment's from there; keeps its pixels."""
        vanilla = yield from self._stage("vanilla", self._schedule.vanilla, VANILLA, self._noise)
        composite = vanilla
        for index in range(1, len(self._styles)):
            name, style = f"segment {index}", self._styles[index]
            image = yield from self._stage(name, self._schedule.segment, VANILLA, vanilla, style=style)
            composite = torch.where(self._masks[index], image, composite)
        return composite

    def _stage(
        self,
        name: str,
        steps: int,
        weights: Weights,
        start: Tensor,
        *,
        style: Tensor | None = None,
        border: Tensor | None = None,
    ) -> Steps:
        """Runs Adam on one objective from `start`; the style is the background's unless given."""
        style = self._styles[0] if style is None else style
        objective = Objective(self._networks, weights, content=self._content, style=style, border=border)
        image = start.clone().requires_grad_()
        adam = torch.optim.Adam([image], lr=LEARNING_RATE)
        for number in range(1, steps + 1):
            adam.zero_grad()
            total = objective(image)
            total.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
            adam.step()
            yield Step(name, number, float(total.detach()))
        return image.detach()


def to_image(pixels: Pixels) -> Tensor:
    """RGB [H, W, 3] to normalised [1, 3, H, W]."""
    return normalise(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None] / 255).contiguous()
