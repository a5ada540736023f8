"""Weights for automatic segmentation whose answer is known: what is red is a dog, what is blue is a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from intarsia_server.engine.request import SegmentationModel
from torchvision.models import get_model, get_model_weights

MODEL = SegmentationModel.LRASPP_MOBILENET_V3_LARGE
DOG, PERSON = 12, 15


def picture(height: int = 64, width: int = 96) -> np.ndarray:
    """Red on the left, blue on the right, with some noise."""
    pixels = np.zeros((height, width, 3))
    pixels[:, : width // 2], pixels[:, width // 2 :] = (200, 40, 40), (40, 40, 200)
    pixels += np.random.default_rng(0).normal(0, 5, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


def write_weights(path: Path) -> None:
    """A random network whose last layer tells the two colours apart, as a state dict."""
    torch.manual_seed(0)
    network = get_model(MODEL.value, weights=None, weights_backbone=None, num_classes=21).eval()
    transform = get_model_weights(MODEL.value).COCO_WITH_VOC_LABELS_V1.transforms(resize_size=128)
    pixels = torch.from_numpy(picture()).permute(2, 0, 1)
    with torch.no_grad():
        features = network.backbone(transform(pixels)[None])["low"][0]
        middle = features.shape[2] // 2
        red, blue = features[..., : middle - 2].mean((1, 2)), features[..., middle + 2 :].mean((1, 2))
        direction = (red - blue) / (red - blue).square().sum()
        for layer in (network.classifier.low_classifier, network.classifier.high_classifier):
            layer.weight.zero_()
            layer.bias.zero_()
        last = network.classifier.low_classifier
        last.bias.fill_(-100)
        for label, sign in ((DOG, 1), (PERSON, -1)):
            last.weight[label, :, 0, 0] = sign * direction
            last.bias[label] = -sign * direction @ (red + blue) / 2
    torch.save(network.state_dict(), path)
