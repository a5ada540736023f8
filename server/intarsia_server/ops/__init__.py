"""Tensor operators of the style transfer: masked Gram matrices and masked total variation.

The engine calls these and nothing below them. Importing this package loads the compiled kernels if they were built.
"""

from intarsia_server.ops import library, native
from intarsia_server.ops.masked_gram import MaskedGram, masked_gram, masked_gram_loss
from intarsia_server.ops.masked_tv import masked_tv
from intarsia_server.ops.plan import MAX_SEGMENTS, MaskPlan, build_plan

IMPLEMENTATION = native.implementation(native.load())
"""Which kernels are in use; shown by `intarsia info`."""

__all__ = [
    "IMPLEMENTATION",
    "MAX_SEGMENTS",
    "MaskPlan",
    "MaskedGram",
    "build_plan",
    "library",
    "masked_gram",
    "masked_gram_loss",
    "masked_tv",
]
