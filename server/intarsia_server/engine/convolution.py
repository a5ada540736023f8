"""A frozen convolution and its ReLU: forward, and backward to the input alone, since the weights never learn."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor


class FrozenConvolution:
    """relu(conv(x) + b) with a 3x3 kernel, and the gradient by x as a convolution of its own.

    The gradient by the input of a convolution is the convolution of the output's gradient with the kernel flipped and
    its channels exchanged; made once, it runs at the forward rate.

    Args:
        weight: [C_out, C_in, 3, 3].
        bias: [C_out].
        device: to run on.
        precision: of weights, input and output.
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, device: torch.device, precision: torch.dtype) -> None:
        weight = weight.to(device, precision)
        self._forward = _convolution(weight, bias.to(device, precision), relu=True)
        self._backward = _convolution(weight.flip(2, 3).transpose(0, 1), None, relu=False)

    def forward(self, x: Tensor, *, replicated: bool) -> Tensor:
        """The feature map [N, C_out, H, W] of x, which is [N, C_in, H + 2, W + 2] if replication has padded it.

        Otherwise x is [N, C_in, H, W] and is padded with zeros.
        """
        return self._forward(x, 0 if replicated else 1)

    def backward(self, gradient: Tensor, *, replicated: bool) -> Tensor:
        """The gradient by x, given the one by the convolution's output before its ReLU."""
        return self._backward(gradient, 2 if replicated else 1)


def _convolution(weight: Tensor, bias: Tensor | None, *, relu: bool) -> Callable[[Tensor, int], Tensor]:
    """A convolution with a margin of that many zeros, on kernels laid out once."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    if (
        weight.device.type == "cpu"
        and weight.dtype != torch.float64
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    ):
        # oneDNN would bring the kernels into its own order in every call.
        packed = torch.ops.mkldnn._reorder_convolution_weight(weight)
        activation = "relu" if relu else "none"

        def fused(x: Tensor, margin: int) -> Tensor:
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, packed, bias, [margin, margin], [1, 1], [1, 1], 1, activation, [], ""
            )
            return result

        return fused

    def plain(x: Tensor, margin: int) -> Tensor:
        result = F.conv2d(x, weight, bias, padding=margin)
        return result.relu_() if relu else result

    return plain
