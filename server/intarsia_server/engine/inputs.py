"""From a request's encoded pictures to arrays of the working size. No torch here: the front process runs this too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import Pixels, cover, decode_rgb, fit_longer_side, resize
from intarsia_server.engine.request import Start, TransferRequest
from intarsia_server.engine.segmentation import LabelMap, assign_segments, decode_label_map, resize_labels

MIN_SIDE = 32
"""The encoder's reach: a shorter side leaves fewer than two pixels at relu5_1."""

DEFAULT_SIZE = 600
"""Longer side that a larger content image is brought to unless the request says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A request's pictures at the working size (H, W).

    Attributes:
        content: RGB [H, W, 3].
        labels: segment index of every pixel [H, W].
        styles: per segment the style image in its own proportions, longer side scaled by `style_scale`; None for keep.
        covers: per segment the style image cropped to [H, W, 3], for the surrogate and the paper's objective.
        start: the start image [H, W, 3], if the request brings one.
        warnings: what had to be worked around, as (code, message).
    """

    content: Pixels
    labels: LabelMap
    styles: tuple[Pixels | None, ...]
    covers: tuple[Pixels | None, ...]
    start: Pixels | None
    warnings: tuple[tuple[str, str], ...]


def decode_inputs(request: TransferRequest, *, max_pixels: int) -> Inputs:
    """Decodes, checks and resizes every picture of a request.

    Args:
        request: with all values resolved.
        max_pixels: largest picture to decode, and largest output.

    Raises:
        InvalidInputError: whatever is wrong with them, with the field's path.
    """
    warnings: list[tuple[str, str]] = []

    def rgb(data: bytes, field: str) -> Pixels:
        decoded = decode_rgb(data, field, max_pixels=max_pixels)
        if decoded.warning:
            warnings.append(("colour_profile_ignored", decoded.warning))
        return decoded.pixels

    content = rgb(request.content, "content.data")
    _check_side(content, "content.data")
    labels = decode_label_map(request.label_map, "label_map.data", max_pixels=max_pixels)
    if labels.shape != content.shape[:2]:
        raise InvalidInputError(
            "label_map.data",
            f"is {labels.shape[1]}x{labels.shape[0]} pixels, the content image {content.shape[1]}x{content.shape[0]}",
        )
    labels = assign_segments(labels, request.segments, label_field="label_map.data", segment_field="segments")

    width, height = output_size(content, request.output.size, max_pixels=max_pixels)
    labels = resize_labels(labels, len(request.segments), width, height)
    _check_segments_survive(labels, len(request.segments), width, height)
    styles: list[Pixels | None] = []
    covers: list[Pixels | None] = []
    for index, segment in enumerate(request.segments):
        if segment.style is None:
            styles.append(None)
            covers.append(None)
            continue
        field = f"segments[{index}].style.data"
        style = rgb(segment.style, field)
        _check_side(style, field)
        style_width, style_height = fit_longer_side(
            style.shape[1], style.shape[0], max(1, round(max(width, height) * segment.style_scale))
        )
        if min(style_width, style_height) < MIN_SIDE:
            raise InvalidInputError(
                f"segments[{index}].style_scale",
                f"makes the style image {style_width}x{style_height} pixels; both sides need {MIN_SIDE}",
            )
        if style_width * style_height > max_pixels:
            raise InvalidInputError(
                f"segments[{index}].style_scale", f"makes the style image larger than the limit of {max_pixels} pixels"
            )
        styles.append(resize(style, style_width, style_height))
        covers.append(cover(style, width, height))
    start = None
    if request.optimization.start is Start.IMAGE:
        field = "optimization.start_image.data"
        start = cover(rgb(request.optimization.start_image or b"", field), width, height)
    return Inputs(
        content=resize(content, width, height),
        labels=labels,
        styles=tuple(styles),
        covers=tuple(covers),
        start=start,
        warnings=tuple(warnings),
    )


def output_size(content: Pixels, size: int | None, *, max_pixels: int) -> tuple[int, int]:
    """(width, height) of the result.

    Raises:
        InvalidInputError: shorter than the encoder's reach, or more pixels than the limit.
    """
    height, width = content.shape[:2]
    width, height = fit_longer_side(width, height, size or min(DEFAULT_SIZE, max(width, height)))
    if min(width, height) < MIN_SIDE:
        raise InvalidInputError(
            "output.size",
            f"makes the result {width}x{height} pixels; the encoder's reach needs {MIN_SIDE} on both sides",
        )
    if width * height > max_pixels:
        raise InvalidInputError(
            "output.size", f"makes the result {width}x{height}, over the limit of {max_pixels} pixels"
        )
    return width, height


def _check_side(pixels: Pixels, field: str) -> None:
    height, width = pixels.shape[:2]
    if min(width, height) < MIN_SIDE:
        raise InvalidInputError(
            field, f"is {width}x{height} pixels; the encoder's reach needs {MIN_SIDE} on both sides"
        )


def _check_segments_survive(labels: LabelMap, count: int, width: int, height: int) -> None:
    lost = set(range(count)) - set(np.unique(labels).tolist())
    if lost:
        raise InvalidInputError(
            f"segments[{min(lost)}].labels", f"no pixel of the segment is left at the output size {width}x{height}"
        )
