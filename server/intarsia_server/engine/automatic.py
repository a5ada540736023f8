"""Automatic segmentation: torchvision's networks for VOC's classes, their weights from whoever has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from PIL import Image
from torch import Tensor, nn

from intarsia_server.engine.errors import WeightsUnavailableError
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.request import SegmentationModel
from intarsia_server.engine.segmentation import LabelMap
from intarsia_server.engine.voc import CLASSES
from intarsia_server.engine.weight_files import hub_state, read_state

SHORTER_SIDE = 520
"""What the networks were trained at; torchvision's own preset."""

MAX_STRETCH = 4
"""Longer side over shorter above which a picture is made smaller than the preset, to bound memory."""

AUXILIARY = frozenset({SegmentationModel.FCN_RESNET101, SegmentationModel.DEEPLABV3_RESNET101})
"""Published with the auxiliary head that they were trained with."""


class Classifier:
    """Finds VOC's classes; loads a network when it is first asked for, and keeps it.

    Args:
        files: state dicts that the operator has registered, by the model's name.
        allow_download: whether to fetch weights that are neither registered nor in the torch hub's cache.
        device: to run on.
    """

    def __init__(self, *, files: Mapping[SegmentationModel, Path], allow_download: bool, device: torch.device) -> None:
        self._files = files
        self._allow_download = allow_download
        self._device = device
        self._networks: dict[SegmentationModel, nn.Module] = {}

    def __call__(self, content: Pixels, model: SegmentationModel) -> LabelMap:
        """Class index of every pixel.

        Args:
            content: RGB [H, W, 3].
            model: which network.

        Returns:
            [H, W], 0 (background) to 20.

        Raises:
            WeightsUnavailableError: see `load_network`.
        """
        if model not in self._networks:
            network = load_network(model, files=self._files, allow_download=self._allow_download)
            self._networks[model] = network.to(self._device)
        image = _published(model).transforms(resize_size=_shorter_side(*content.shape[:2]))(Image.fromarray(content))
        with torch.no_grad():
            scores = self._networks[model](image[None].to(self._device))["out"]
        return _greatest(scores, *content.shape[:2])


def load_network(
    model: SegmentationModel, *, files: Mapping[SegmentationModel, Path], allow_download: bool
) -> nn.Module:
    """Builds a network and loads its weights.

    Args:
        model: which.
        files: by the model's name; comes first.
        allow_download: see `hub_state`.

    Raises:
        WeightsUnavailableError: the weights are not at hand, or are another network's.
    """
    from torchvision.models import get_model  # a second to load, and few jobs need it

    what = f"automatic segmentation {model.value!r}"
    if model in files:
        state = read_state(files[model], what)
    else:
        elsewhere = f"name a file in INTARSIA_SEGMENTATION_FILES='{{\"{model.value}\": ...}}', "
        state = hub_state(_published(model), what, allow_download=allow_download, elsewhere=elsewhere)
    options = {"aux_loss": True} if model in AUXILIARY else {}
    network: nn.Module = get_model(
        model.value, weights=None, weights_backbone=None, num_classes=len(CLASSES), **options
    )
    try:
        network.load_state_dict(state)  # type: ignore[arg-type]  # what is no mapping raises TypeError
    except (RuntimeError, TypeError) as error:
        raise WeightsUnavailableError(f"{what}: the weights file holds no state dict of this network") from error
    return network.eval().requires_grad_(False)


def _published(model: SegmentationModel) -> Any:
    """Torchvision's entry for the published weights: their file, and the transform to the network's input."""
    from torchvision.models import get_model_weights

    return get_model_weights(model.value).COCO_WITH_VOC_LABELS_V1


def _shorter_side(height: int, width: int) -> int:
    """Of the picture as the network sees it, in pixels."""
    stretch = max(height, width) / min(height, width)
    return max(1, round(SHORTER_SIDE * min(1, MAX_STRETCH / stretch)))


def _greatest(scores: Tensor, height: int, width: int) -> LabelMap:
    """Class with the greatest score [1, C, h, w] at each pixel of the full size; one at a time, to save memory."""
    best = torch.full((1, 1, height, width), -torch.inf, device=scores.device)
    labels = torch.zeros((1, 1, height, width), dtype=torch.int32, device=scores.device)
    for index in range(scores.shape[1]):
        score = F.interpolate(scores[:, index : index + 1], size=(height, width), mode="bilinear", align_corners=False)
        labels[score > best] = index
        best = torch.maximum(best, score)
    found: LabelMap = labels[0, 0].cpu().numpy().astype(np.int32)
    return found
