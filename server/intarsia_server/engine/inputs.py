"""From a request's encoded pictures to arrays of the working size. No torch here: the front process runs this too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from intarsia_server.engine.cancel import Cancelled, never, poll
from intarsia_server.engine.cost.areas import stage_areas
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.images import Pixels, cover, decode_rgb, fit_longer_side, resize
from intarsia_server.engine.known_pictures import KnownPictures
from intarsia_server.engine.label_finder import NO_TOOLS, Tools
from intarsia_server.engine.request import Segment, Start, TransferRequest
from intarsia_server.engine.segment_finder import SegmentFinder
from intarsia_server.engine.segmentation import LabelMap
from intarsia_server.engine.style_images import Cover, OwnProportions, StyleImages, style_size

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
        masks: soft masks [R, H, W], a partition of unity in which kept segments' are hard; None: `labels` says all.
        styled: indices of the segments that have a style and pixels to wear it.
        styles: per segment the style image in its own proportions, scaled by `style_scale`; None for keep.
        covers: per segment the style image cropped to [H, W, 3], for the surrogate and the paper's objective.
        start: the start image [H, W, 3], if the request brings one.
        warnings: what had to be worked around, as (code, message).
    """

    content: Pixels
    labels: LabelMap
    masks: NDArray[np.float32] | None
    styled: tuple[int, ...]
    styles: StyleImages
    covers: StyleImages
    start: Pixels | None
    warnings: Warnings


@dataclass(frozen=True)
class Checked:
    """What is known of a job once its pictures have been looked at.

    Attributes:
        size: (width, height) of the result.
        areas: by stage, the share of the picture that it works on; 1 for those that are not named.
    """

    size: tuple[int, int]
    areas: Mapping[str, float] = field(default_factory=dict)


def check_inputs(request: TransferRequest, *, max_pixels: int, tools: Tools = NO_TOOLS) -> Checked:
    """Decodes the pictures of a request once, one after another, keeps none, and refuses what cannot be worked on.

    A style image that is known is not decoded.

    Args:
        request: with all values resolved.
        max_pixels: largest picture to decode, and largest output.
        tools: of them only `cancelled` and `known` are used.

    Raises:
        InvalidInputError: whatever is wrong with them, with the field's path.
        CancelledError: as the tools say.
    """
    decode = Decoder(max_pixels, tools.cancelled, tools.known)
    content = _content(request, decode)
    width, height = output_size(content, request.output.size, max_pixels=max_pixels)
    finder = SegmentFinder(request.segmentation, request.segments, content, max_pixels=max_pixels)
    labels = finder.check((width, height), tools)
    _check_others(request, (width, height), decode)
    return Checked((width, height), stage_areas(request, (width, height), labels))


def decode_inputs(request: TransferRequest, *, max_pixels: int, tools: Tools = NO_TOOLS) -> Inputs:
    """Checks as `check_inputs` does, finds the segments, and makes the pictures of the working size.

    Args:
        request: with all values resolved.
        max_pixels: as of `check_inputs`.
        tools: what finding the segments may need.

    Raises:
        InvalidInputError: as `check_inputs`, and for what only shows once the segments have been found.
        WeightsUnavailableError, CancelledError: as the tools say.
    """
    decode = Decoder(max_pixels, tools.cancelled, tools.known)
    content = _content(request, decode)
    width, height = output_size(content, request.output.size, max_pixels=max_pixels)
    finder = SegmentFinder(request.segmentation, request.segments, content, max_pixels=max_pixels)
    found = finder.find((width, height), tools)
    _check_background(request, found.styled)
    _check_others(request, (width, height), decode)
    start = None
    if request.optimization.start is Start.IMAGE:
        start = cover(decode(request.optimization.start_image or b"", _START_FIELD), width, height)
    return Inputs(
        content=resize(content, width, height),
        labels=found.labels,
        masks=found.masks,
        styled=found.styled,
        styles=StyleImages(request.segments, OwnProportions(width, height), max_pixels),
        covers=StyleImages(request.segments, Cover(width, height), max_pixels),
        start=start,
        warnings=(*dict.fromkeys(decode.warnings), *found.warnings),
    )


_START_FIELD = "optimization.start_image.data"


class Decoder:
    """`decode_rgb` with one limit, gathering the warnings; `cancelled` is polled before each picture."""

    def __init__(self, max_pixels: int, cancelled: Cancelled = never, known: KnownPictures | None = None) -> None:
        self.max_pixels = max_pixels
        self._cancelled = cancelled
        self._known = known
        self.warnings: list[tuple[str, str]] = []

    def __call__(self, data: bytes, field: str) -> Pixels:
        """RGB [H, W, 3].

        Raises:
            InvalidInputError: as `decode_rgb`.
            CancelledError: `cancelled` said so.
        """
        poll(self._cancelled)
        decoded = decode_rgb(data, field, max_pixels=self.max_pixels)
        if decoded.warning:
            self.warnings.append(("colour_profile_ignored", decoded.warning))
        return decoded.pixels

    def size(self, data: bytes, sha256: str, field: str) -> tuple[int, int]:
        """(width, height) of a picture that can be decoded; one that is known is not decoded again.

        Raises:
            InvalidInputError, CancelledError: as when it is called.
        """
        known = None if self._known is None else self._known.get(sha256)
        if known is not None and known[0] * known[1] <= self.max_pixels:
            return known
        warned = len(self.warnings)
        height, width = self(data, field).shape[:2]
        # A warning belongs to every job that brings the picture.
        if self._known is not None and len(self.warnings) == warned:
            self._known.add(sha256, (width, height))
        return width, height


def _content(request: TransferRequest, decode: Decoder) -> Pixels:
    """The content image as it came."""
    content = decode(request.content, "content.data")
    check_side(content, "content.data")
    return content


def _check_background(request: TransferRequest, styled: Sequence[int]) -> None:
    """A background that automatic segmentation has not found would still lend its style to the whole picture."""
    background = getattr(request.parameters, "background", None)
    if background is None or request.segments[background].style is None:
        return
    if background not in styled:
        raise InvalidInputError(
            f"{request.parameters.method.replace('-', '_')}.background",
            f"segments[{background}] has no pixel in the picture, the background needs some",
        )


def _check_others(request: TransferRequest, size: tuple[int, int], decode: Decoder) -> None:
    check_styles(request.segments, *size, decode)
    if request.optimization.start is Start.IMAGE:
        decode(request.optimization.start_image or b"", _START_FIELD)


def check_styles(segments: Sequence[Segment], width: int, height: int, decode: Decoder) -> None:
    """Decodes every style image that is not known, and refuses those that cannot serve a picture of that size.

    Raises:
        InvalidInputError: with the field's path.
    """
    for index, segment in enumerate(segments):
        if segment.style is None or segment.style_sha256 is None:
            continue
        field = f"segments[{index}].style"
        own = decode.size(segment.style, segment.style_sha256, f"{field}.data")
        _check_side(*own, f"{field}.data")
        style_width, style_height = style_size(own, segment, width, height)
        size = f"makes the style image {style_width}x{style_height} pixels"
        if min(style_width, style_height) < MIN_SIDE:
            raise InvalidInputError(f"{field}_scale", f"{size}; both sides need {MIN_SIDE}")
        # At scale 1 the style is as large as the output, give or take the rounding.
        if segment.style_scale > 1 and style_width * style_height > decode.max_pixels:
            raise InvalidInputError(f"{field}_scale", f"{size}, more than the limit of {decode.max_pixels}")


def output_size(content: Pixels, size: int | None, *, max_pixels: int) -> tuple[int, int]:
    """(width, height) of the result.

    Raises:
        InvalidInputError: shorter than the encoder's reach, or more pixels than the limit.
    """
    height, width = content.shape[:2]
    width, height = working_size(width, height, size)
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


def working_size(width: int, height: int, size: int | None) -> tuple[int, int]:
    """(width, height) of the result of a content image of that size, if the longer side is to be `size`."""
    return fit_longer_side(width, height, size or min(DEFAULT_SIZE, max(width, height)))


def check_side(pixels: Pixels, field: str) -> None:
    """Raises InvalidInputError when the encoder's reach is longer than a side."""
    height, width = pixels.shape[:2]
    _check_side(width, height, field)


def _check_side(width: int, height: int, field: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise InvalidInputError(
            field, f"is {width}x{height} pixels; the encoder's reach needs {MIN_SIDE} on both sides"
        )
