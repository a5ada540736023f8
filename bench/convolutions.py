"""A step's convolutions by themselves: what no implementation of the encoder can do without.

VGG-19 up to the deepest style layer, at the shapes at which the encoder runs them: forward without padding on an image
that has its border already, and backward as a forward convolution with flipped, transposed weights over a border of
two pixels. No padding, pooling, masks, losses or optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from intarsia_server.engine.vgg import CONVOLUTIONS
from intarsia_server.engine.weights import ConvolutionWeights
from torch import Tensor
from torch.nn import functional

DEEPEST = (5, 1)
"""relu5_1, the last of the style layers."""

Convolution = Callable[[], Tensor]


def passes(weights: ConvolutionWeights, height: int, width: int, precision: torch.dtype) -> Iterator[None]:
    """Endlessly all convolutions of a step, forward and backward, one such pass at a time."""
    calls = list(convolutions(weights, height, width, precision))
    while True:
        for call in calls:
            call()
        yield


def convolutions(weights: ConvolutionWeights, height: int, width: int, precision: torch.dtype) -> Iterator[Convolution]:
    """Each convolution of a step on an image [1, 3, height, width], in the order of the layers, backward after forward.

    In bfloat16 with prepacked weights by oneDNN, as fast as it goes; in float32 as torch has it.
    """
    for (block, conv), (weight, bias) in zip(CONVOLUTIONS, weights, strict=True):
        if (block, conv) > DEEPEST:
            return
        rows, columns = height >> (block - 1), width >> (block - 1)
        yield _convolution(weight, bias, (rows + 2, columns + 2), 0, precision)
        yield _convolution(weight.flip(2, 3).transpose(0, 1), None, (rows, columns), 2, precision)


def _convolution(
    weight: Tensor, bias: Tensor | None, size: tuple[int, int], padding: int, precision: torch.dtype
) -> Convolution:
    layout = torch.channels_last if precision is torch.bfloat16 else torch.contiguous_format
    image = torch.randn((1, weight.shape[1], *size), generator=torch.Generator().manual_seed(0))
    image = image.to(precision).contiguous(memory_format=layout)
    weight = weight.to(precision).contiguous(memory_format=layout)
    bias = None if bias is None else bias.to(precision)
    if precision is not torch.bfloat16:
        return partial(functional.conv2d, image, weight, bias, padding=padding)
    around, ones = [padding, padding], [1, 1]
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, around, ones, ones, 1, list(image.shape))
    attribute = "none" if bias is None else "relu"
    convolve = torch.ops.mkldnn._convolution_pointwise
    return partial(convolve, image, packed, bias, around, ones, ones, 1, attribute, [], "")
