"""What a segmentation is answered with. No torch here: the front process passes it on."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.inputs import Decoder, check_side
from intarsia_server.engine.label_finder import NO_TOOLS, Tools, check_labels, find_labels
from intarsia_server.engine.request import Automatic, LabelMapSource, SegmentationRequest, SoftMasks
from intarsia_server.engine.segmentation import LabelMap
from intarsia_server.engine.voc import CLASSES

MAX_LABEL = 0xFFFFFF


@dataclass(frozen=True)
class FoundLabel:
    """One label that occurs; `name` is empty where labels have none, `share` is of the pixels."""

    label: int
    name: str
    share: float


@dataclass(frozen=True)
class FoundLabels:
    """A label map as PNG, what is in it by label, and what was worked around."""

    label_map: bytes
    labels: tuple[FoundLabel, ...]
    warnings: Warnings


def check_segmentation(request: SegmentationRequest, *, max_pixels: int) -> tuple[int, int]:
    """Decodes every picture of a request once, keeps none, and refuses what cannot be worked on.

    Returns:
        (width, height) of the label map.

    Raises:
        InvalidInputError: whatever is wrong with them, with the field's path.
    """
    content = Decoder(max_pixels)(request.content, "content.data")
    check_side(content, "content.data")
    match request.segmentation:
        case LabelMapSource() | SoftMasks():
            labels, _ = find_labels(request.segmentation, content, claimed=None, max_pixels=max_pixels, tools=NO_TOOLS)
            if labels.max() > MAX_LABEL:
                raise InvalidInputError("label_map.data", f"has labels above {MAX_LABEL}, which no PNG holds")
        case source:
            check_labels(source, content, max_pixels=max_pixels)
    height, width = content.shape[:2]
    return width, height


def answer_segmentation(request: SegmentationRequest, *, max_pixels: int, tools: Tools) -> FoundLabels:
    """Finds the labels.

    Raises:
        InvalidInputError, WeightsUnavailableError, CancelledError: as `find_labels`.
    """
    decode = Decoder(max_pixels)
    content = decode(request.content, "content.data")
    labels, warnings = find_labels(request.segmentation, content, claimed=None, max_pixels=max_pixels, tools=tools)
    present, counts = np.unique(labels, return_counts=True)
    names = CLASSES if isinstance(request.segmentation, Automatic) else ()
    found = tuple(
        FoundLabel(label, names[label] if names else "", count / labels.size)
        for label, count in zip(present.tolist(), counts.tolist(), strict=True)
    )
    return FoundLabels(encode_labels(labels), found, (*decode.warnings, *warnings))


def encode_labels(labels: LabelMap) -> bytes:
    """PNG that `read_labels` reads as just these labels, 0 to 0xFFFFFF, in the narrowest way that holds them."""
    if labels.max() <= 255:
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(_palette())
    elif labels.max() <= 65535:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(np.stack([labels >> 16, labels >> 8 & 255, labels & 255], axis=-1).astype(np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _palette() -> bytes:
    """VOC's colours: the bits of an index spread over red, green and blue, highest first."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> channel & 1) << (7 - bit)).astype(np.uint8)
        index >>= 3
    return colours.tobytes()
