"""The architecture of VGG-19, and which layers the losses read. No torch here: the front process counts with it."""

from __future__ import annotations

from collections.abc import Mapping

BLOCKS = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and number of convolutions of each block of VGG-19."""

CONVOLUTIONS = tuple((block, conv) for block, (_, count) in enumerate(BLOCKS, 1) for conv in range(1, count + 1))
"""(block, convolution) of all sixteen convolutions, both from 1, in order."""

LAYERS = tuple(f"relu{block}_{conv}" for block, conv in CONVOLUTIONS)
"""Names of the feature maps, in order."""

STYLE_LAYERS: Mapping[str, float] = {
    "relu1_1": 0.75,
    "relu2_1": 0.5,
    "relu3_1": 0.2,
    "relu4_1": 0.2,
    "relu5_1": 0.2,
}
"""Style layers and their weights w_l."""

CONTENT_LAYER = "relu4_2"
SURROGATE_LAYER = "relu1_1"


def pool_count(layer: str) -> int:
    """How often an image is pooled on the way to a layer."""
    return int(layer[4]) - 1
