"""Label maps: one integer a pixel, and the segments made of them. No torch here: the front process checks them too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import open_image
from intarsia_server.engine.request import Segment

MAX_COLOURS = 64
MAX_SEGMENTS = 256

LabelMap = NDArray[np.int32]
"""[H, W]; label values as they stand in the file, or segment indices once assigned."""


def decode_label_map(data: bytes, field: str, *, max_pixels: int) -> LabelMap:
    """Reads an index, palette or colour-coded picture; the label of a colour is 0xRRGGBB.

    Raises:
        InvalidInputError: not a picture, translucent, or more than 64 colours.
    """
    image = open_image(data, field, max_pixels=max_pixels)
    if image.mode in {"P", "L", "1", "I", "I;16", "I;16L", "I;16B"}:
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0:
            raise InvalidInputError(field, "has negative labels")
        return values
    if image.mode == "F":
        raise InvalidInputError(field, "has fractions for labels")
    if "A" in image.getbands() and image.getchannel("A").getextrema() != (255, 255):
        raise InvalidInputError(field, "is translucent; a label map has one opaque label a pixel")
    return _decode_colours(image, field)


def _decode_colours(image: Image.Image, field: str) -> LabelMap:
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
        # A grey picture saved as RGB: its labels are the grey values that its maker wrote.
        return np.ascontiguousarray(rgb[..., 0])
    packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    colours = len(np.unique(packed))
    if colours > MAX_COLOURS:
        raise InvalidInputError(
            field,
            f"has {colours} colours, at most {MAX_COLOURS} are allowed; "
            "a label map must not be saved as JPEG or anti-aliased",
        )
    return packed


def assign_segments(labels: LabelMap, segments: Sequence[Segment], *, label_field: str, segment_field: str) -> LabelMap:
    """Replaces every label by the index of the segment that claims it.

    Raises:
        InvalidInputError: a label that no segment claims, two segments that claim one label, or a segment without
            pixels.
    """
    owner: dict[int, int] = {}
    for index, segment in enumerate(segments):
        for label in segment.labels:
            if label in owner:
                raise InvalidInputError(
                    f"{segment_field}[{index}].labels", f"label {label} already belongs to segments[{owner[label]}]"
                )
            owner[label] = index
    present, inverse = np.unique(labels, return_inverse=True)
    missing = [int(label) for label in present if int(label) not in owner]
    if missing:
        listed = ", ".join(map(_label_name, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise InvalidInputError(label_field, f"labels without a style: {listed}")
    found = {int(label) for label in present}
    for index, segment in enumerate(segments):
        absent = [label for label in segment.labels if label not in found]
        if absent:
            raise InvalidInputError(
                f"{segment_field}[{index}].labels", f"label {_label_name(absent[0])} has no pixel in the label map"
            )
    lookup = np.array([owner[int(label)] for label in present], dtype=np.int32)
    indices: LabelMap = lookup[inverse].reshape(labels.shape)
    return indices


def _label_name(label: int) -> str:
    return str(label) if label <= 65535 else f"{label} (#{label:06x})"


def resize_labels(labels: LabelMap, count: int, width: int, height: int) -> LabelMap:
    """Label map at another size: each pixel takes the label that covers most of it, so no new label can appear."""
    if labels.shape == (height, width):
        return labels
    best = np.zeros((height, width), dtype=np.float32)
    largest: LabelMap = np.zeros((height, width), dtype=np.int32)
    for index in range(count):
        mask = Image.fromarray((labels == index).astype(np.float32))
        coverage = np.asarray(mask.resize((width, height), Image.Resampling.BOX))
        largest[coverage > best] = index
        best = np.maximum(best, coverage)
    return largest
