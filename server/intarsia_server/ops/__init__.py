"""Tensor operators of the style transfer: masked Gram matrices, masked total variation, the encoder's small layers.

The engine calls these and nothing below them. Importing this package loads the compiled kernels if they were built.
"""

from intarsia_server.ops import library, native
from intarsia_server.ops.layers import convolution_input, feature_loss, fold_margin, relu_backward
from intarsia_server.ops.library import loss_scales
from intarsia_server.ops.masked_gram import (
    MaskedGram,
    masked_gram,
    masked_gram_gradient,
    masked_gram_loss,
    masked_gram_loss_gradient,
)
from intarsia_server.ops.masked_tv import masked_tv, masked_tv_gradient
from intarsia_server.ops.plan import MAX_SEGMENTS, MaskPlan, build_plan

IMPLEMENTATION = native.implementation(native.load())
"""Which kernels are in use; shown by `intarsia info`."""

__all__ = [
    "IMPLEMENTATION",
    "MAX_SEGMENTS",
    "MaskPlan",
    "MaskedGram",
    "build_plan",
    "convolution_input",
    "feature_loss",
    "fold_margin",
    "library",
    "loss_scales",
    "masked_gram",
    "masked_gram_gradient",
    "masked_gram_loss",
    "masked_gram_loss_gradient",
    "masked_tv",
    "masked_tv_gradient",
    "relu_backward",
]
