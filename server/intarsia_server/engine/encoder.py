"""The encoder: frozen VGG-19, average pooling, replication padding, one pass cut after the deepest layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor

from intarsia_server.engine.vgg import CONVOLUTIONS, LAYERS
from intarsia_server.engine.weights import MEAN, STD, ConvolutionWeights


class Encoder:
    """Feature maps of an image: ReLU outputs of VGG-19 by name.

    Max pooling is replaced by 2x2 average pooling (Gatys et al. 2015). Convolutions pad by replication: zero padding
    paints a frame around the picture. Convolutions run in `precision`, feature maps come out as float32 (float64 in
    float64), because Gram matrices need the accuracy.
    """

    def __init__(self, weights: ConvolutionWeights, *, device: torch.device, precision: torch.dtype) -> None:
        self.device = device
        self.precision = precision
        self._convolutions = [
            (
                weight.to(device, precision).contiguous(memory_format=torch.channels_last),
                bias.to(device, precision),
            )
            for weight, bias in weights
        ]

    def __call__(self, image: Tensor, layers: Iterable[str]) -> Mapping[str, Tensor]:
        """Runs the image [N, 3, H, W] (normalised) up to the deepest of `layers`.

        Returns:
            The wanted feature maps [N, C, H', W'] by name, channels_last.
        """
        wanted = set(layers)
        remaining = len(wanted)
        found: dict[str, Tensor] = {}
        out = torch.promote_types(self.precision, torch.float32)
        x = image.to(self.precision).contiguous(memory_format=torch.channels_last)
        for (block, conv), name, (weight, bias) in zip(CONVOLUTIONS, LAYERS, self._convolutions, strict=True):
            if remaining == 0:
                break
            if conv == 1 and block > 1:
                x = F.avg_pool2d(x, 2)
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias))
            if name in wanted:
                found[name] = x.to(out)
                remaining -= 1
        return found


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
    block = int(layer[4])
    for _ in range(block - 1):
        masks = F.avg_pool2d(masks, 2)
    return masks


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(MEAN)[:, None, None], like.new_tensor(STD)[:, None, None]
