"""Tensor operators of the style transfer: masked Gram matrices and masked total variation.

The engine calls these and nothing below them, so that another implementation can take their place without a change
above.
"""

from intarsia_server.ops.masked_gram import MaskedGram, MaskPlan, build_plan, masked_gram
from intarsia_server.ops.masked_tv import masked_tv

IMPLEMENTATION = "torch"
"""Which implementation is in use; shown by `intarsia info`."""

__all__ = ["IMPLEMENTATION", "MaskPlan", "MaskedGram", "build_plan", "masked_gram", "masked_tv"]
