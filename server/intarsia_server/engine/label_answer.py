"""What a segmentation is answered with. No torch here: the front process passes it on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.inputs import Decoder, check_side
from intarsia_server.engine.label_finder import FIELDS, NO_TOOLS, Tools, check_labels, find_labels
from intarsia_server.engine.request import Automatic, LabelMapSource, SegmentationRequest, SoftMasks
from intarsia_server.engine.segmentation import MAX_COLOURS, LabelMap, distinct
from intarsia_server.engine.voc import CLASSES

MAX_LABEL = 0xFFFFFF

MAX_FOUND = 4096
"""Different labels that an answer lists; an API of segments takes 256, a flood of them would hold up the front."""


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


def check_segmentation(request: SegmentationRequest, *, max_pixels: int, tools: Tools = NO_TOOLS) -> tuple[int, int]:
    """Decodes every picture of a request once, keeps none, and refuses what cannot be worked on.

    Returns:
        (width, height) of the label map.

    Raises:
        InvalidInputError: whatever is wrong with them, with the field's path.
        CancelledError: as the tools say.
    """
    content = Decoder(max_pixels, tools.cancelled)(request.content, "content.data")
    check_side(content, "content.data")
    match request.segmentation:
        case LabelMapSource() | SoftMasks():
            labels, _ = find_labels(request.segmentation, content, claimed=None, max_pixels=max_pixels, tools=tools)
            _check_answer(distinct(labels).tolist(), FIELDS[type(request.segmentation)])
        case source:
            names = check_labels(source, content, max_pixels=max_pixels)
            if names is not None:
                _check_answer(sorted(names), FIELDS[type(source)])
    height, width = content.shape[:2]
    return width, height


def answer_segmentation(request: SegmentationRequest, *, max_pixels: int, tools: Tools) -> FoundLabels:
    """Finds the labels.

    Raises:
        InvalidInputError, WeightsUnavailableError, CancelledError: as `find_labels`; also for labels that no label map
            can answer with.
    """
    decode = Decoder(max_pixels, tools.cancelled)
    content = decode(request.content, "content.data")
    labels, warnings = find_labels(request.segmentation, content, claimed=None, max_pixels=max_pixels, tools=tools)
    present, counts = np.unique(labels, return_counts=True)
    _check_answer(present.tolist(), FIELDS[type(request.segmentation)])
    names = CLASSES if isinstance(request.segmentation, Automatic) else ()
    found = tuple(
        FoundLabel(label, names[label] if names else "", count / labels.size)
        for label, count in zip(present.tolist(), counts.tolist(), strict=True)
    )
    return FoundLabels(encode_labels(labels), found, (*decode.warnings, *warnings))


def _check_answer(present: Sequence[int], field: str) -> None:
    """Refuses labels, each named once, in ascending order, that a PNG does not give back as they are.

    Over 65535 they are colours, of which a label map has at most `MAX_COLOURS`; and where all are grey, their grey
    value is read instead.
    """
    if present[-1] > MAX_LABEL:
        raise InvalidInputError(field, f"has labels above {MAX_LABEL}, which no PNG holds")
    if len(present) > MAX_FOUND:
        raise InvalidInputError(field, f"has {len(present)} labels, at most {MAX_FOUND} are allowed")
    if present[-1] <= 65535:
        return
    if len(present) > MAX_COLOURS:
        raise InvalidInputError(field, f"has {len(present)} labels, with one above 65535 at most {MAX_COLOURS}")
    if all(label == (label & 255) * 0x010101 for label in present):
        raise InvalidInputError(
            field, "has labels above 65535 that are all grey as 0xRRGGBB; they would be read back as grey values"
        )


def encode_labels(labels: LabelMap) -> bytes:
    """PNG that `read_labels` reads as just these labels, in the narrowest way that holds them.

    Args:
        labels: [H, W], 0 to `MAX_LABEL`; over 65535 at most `MAX_COLOURS` of them, and not all grey as 0xRRGGBB.
    """
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
