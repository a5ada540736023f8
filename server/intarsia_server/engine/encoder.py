"""The encoder: frozen VGG-19, average pooling, one pass cut after the deepest layer, and that pass's way back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor

from intarsia_server.engine.convolution import FrozenConvolution
from intarsia_server.engine.vgg import CONVOLUTIONS, LAYERS, pool_count
from intarsia_server.engine.weights import MEAN, STD, ConvolutionWeights
from intarsia_server.engine.window import Window
from intarsia_server.ops import convolution_input, fold_margin, relu_backward

_POOLED = tuple(conv == 1 and block > 1 for block, conv in CONVOLUTIONS)
"""Whether a layer's input is the layer before it, pooled."""


class Encoder:
    """Feature maps of an image: ReLU outputs of VGG-19 by name.

    Max pooling is replaced by 2x2 average pooling (Gatys et al. 2015). Convolutions pad by replication: zero padding
    paints a frame around the picture. They run in `precision`, in which their feature maps come out, too: products and
    sums of them are float32. The weights never learn, so that the way back needs the gradient by the input alone: no
    autograd, no saved inputs, only the feature maps themselves.
    """

    def __init__(self, weights: ConvolutionWeights, *, device: torch.device, precision: torch.dtype) -> None:
        self.device = device
        self.precision = precision
        self._replicate = True
        self._convolutions = [
            FrozenConvolution(weight, bias, device=device, precision=precision) for weight, bias in weights
        ]

    @cached_property
    def padding_with_zeros(self) -> Encoder:
        """The same encoder as the publication ran it, its convolutions padded with zeros; always the same object."""
        other = copy.copy(self)
        other._replicate = False
        return other

    def __call__(
        self, image: Tensor, layers: Iterable[str], parts: Sequence[Window] | None = None
    ) -> Mapping[str, Tensor]:
        """Runs the image [N, 3, H, W] (normalised) up to the deepest of `layers`.

        Args:
            image: as above.
            layers: names of the wanted feature maps.
            parts: of the image, that each block sees: of the first all of it, of each other what lies in the one before
                it. Feature maps are of their block's part. None: every block sees the whole image.

        Returns:
            The wanted feature maps [N, C, H', W'] by name, channels_last.
        """
        wanted = set(layers)
        found: dict[str, Tensor] = {}
        x = self._image(image)
        for index in range(_depth(wanted)):
            x = self._forward(index, x, parts)
            if LAYERS[index] in wanted:
                found[LAYERS[index]] = x
        return found

    def run(self, image: Tensor, layers: Iterable[str], parts: Sequence[Window] | None = None) -> ForwardPass:
        """The same, but keeps what the way back needs."""
        outputs: list[Tensor] = []
        x = self._image(image)
        for index in range(_depth(set(layers))):
            x = self._forward(index, x, parts)
            outputs.append(x)
        return ForwardPass(self, tuple(image.shape), outputs, parts)

    def _image(self, image: Tensor) -> Tensor:
        return image.to(self.precision).contiguous(memory_format=torch.channels_last)

    def _forward(self, index: int, x: Tensor, parts: Sequence[Window] | None) -> Tensor:
        if _POOLED[index] and parts is not None:
            x = _passed_on(index, parts).view(x).contiguous(memory_format=torch.channels_last)
        if _POOLED[index] or self._replicate:
            x = convolution_input(x, pool=_POOLED[index], pad=self._replicate)
        return self._convolutions[index].forward(x, replicated=self._replicate)


@dataclass(frozen=True)
class ForwardPass:
    """An image's feature maps, from which gradients find their way back to it.

    Attributes:
        encoder: that ran.
        shape: of the image.
        outputs: every feature map up to the deepest wanted one, in order.
        parts: of the image, that each block has seen; None: all of it.
    """

    encoder: Encoder
    shape: tuple[int, ...]
    outputs: list[Tensor]
    parts: Sequence[Window] | None

    @property
    def features(self) -> Mapping[str, Tensor]:
        """The feature maps by name."""
        return dict(zip(LAYERS, self.outputs, strict=False))

    def backward(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The gradient by the image [N, 3, H, W], at least float32, given those by feature maps, of their types.

        May be called several times.
        """
        encoder = self.encoder
        replicate = encoder._replicate
        gradient: Tensor | None = None
        for index in reversed(range(_depth(set(gradients)))):
            output = self.outputs[index]
            added = gradients.get(LAYERS[index])
            if gradient is None:
                assert added is not None
                gradient = torch.where(output > 0, added, 0)
            else:
                pooled = _POOLED[index + 1]
                if pooled and self.parts is not None:
                    gradient = self._widened(index + 1, gradient, self.parts)
                gradient = relu_backward(output, gradient, pooled=pooled, padded=replicate, added=added)
            gradient = encoder._convolutions[index].backward(gradient, replicated=replicate)
        wide = torch.promote_types(encoder.precision, torch.float32)
        if gradient is None:
            return torch.zeros(self.shape, dtype=wide, device=encoder.device)
        return fold_margin(gradient.to(wide)) if replicate else gradient.to(wide)

    def _widened(self, index: int, gradient: Tensor, parts: Sequence[Window]) -> Tensor:
        """A gradient by a block's input as one by all of the block before it, pooled; nothing else of it counts.

        Where replicated pixels stand in for what was cut off, no gradient that counts gets that far.
        """
        before = self.outputs[index - 1]
        seen = _passed_on(index, parts).pooled(1)
        padding = 2 * self.encoder._replicate
        batch, channels, height, width = gradient.shape
        whole = (before.shape[2] // 2 + padding, before.shape[3] // 2 + padding)
        if (height, width) == whole:
            return gradient
        wide = gradient.new_zeros(batch, *whole, channels).permute(0, 3, 1, 2)
        wide[..., seen.top : seen.top + height, seen.left : seen.left + width] = gradient
        return wide


def _passed_on(index: int, parts: Sequence[Window]) -> Window:
    """What a block's first layer sees, as it lies in the feature map of the layer before it."""
    block = CONVOLUTIONS[index][0]
    before, own = parts[block - 2], parts[block - 1]
    return own.moved(-before.top, -before.left).pooled(block - 2)


def _depth(layers: set[str]) -> int:
    """Number of convolutions up to the deepest of these layers."""
    return max((LAYERS.index(layer) + 1 for layer in layers), default=0)


def normalise(pixels: Tensor) -> Tensor:
    """RGB in 0..1, [N, 3, H, W], to the encoder's input."""
    mean, std = _statistics(pixels)
    return (pixels - mean) / std


def denormalise(image: Tensor) -> Tensor:
    """The encoder's input back to RGB, clipped to 0..1."""
    mean, std = _statistics(image)
    return (image * std + mean).clamp(0, 1)


def pool_masks(masks: Tensor, layer: str) -> Tensor:
    """Masks [R, H, W] at a layer's resolution, by area averaging with the encoder's own pooling."""
    for _ in range(pool_count(layer)):
        masks = F.avg_pool2d(masks, 2)
    return masks


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(MEAN)[:, None, None], like.new_tensor(STD)[:, None, None]
