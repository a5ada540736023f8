"""From a request's segmentation to its segments at the working size. No torch here: the front process checks too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.label_finder import (
    FIELDS,
    NO_TOOLS,
    Tools,
    check_labels,
    find_labels,
)
from intarsia_server.engine.request import Automatic, Box, Boxes, LabelMapSource, Segment, Segmentation, SoftMasks
from intarsia_server.engine.segmentation import LabelMap, assign_segments, check_claims, distinct, owners, resize_labels
from intarsia_server.engine.soft_masks import NOWHERE, REST, MaskReader, dominant, partition
from intarsia_server.engine.voc import CLASSES


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Where a request's segments lie at the working size (H, W).

    Attributes:
        labels: segment index of every pixel [H, W].
        masks: soft masks [R, H, W]; None: `labels` says all.
        styled: indices of the segments that have a style and pixels to wear it.
        warnings: what had to be worked around.
    """

    labels: LabelMap
    masks: NDArray[np.float32] | None
    styled: tuple[int, ...]
    warnings: Warnings


class SegmentFinder:
    """Finds the segments of one request.

    Args:
        source: the segmentation.
        segments: as requested.
        content: upright, RGB [H, W, 3], as it came.
        max_pixels: largest picture to decode.
    """

    def __init__(self, source: Segmentation, segments: Sequence[Segment], content: Pixels, *, max_pixels: int) -> None:
        self._source = source
        self._segments = segments
        self._content = content
        self._max_pixels = max_pixels

    def check(self, size: tuple[int, int], tools: Tools = NO_TOOLS) -> LabelMap | None:
        """Refuses what can be refused in little time; `size` is the working one, (width, height).

        Returns:
            What is known of the segments by then, as one segment index a pixel: of soft masks the largest one's, of
            boxes all that is in them. None: nothing.

        Raises:
            InvalidInputError: with the field's path.
            CancelledError: as the tools say.
        """
        match self._source:
            case LabelMapSource():
                return self._hard(size, tools)[0]
            case SoftMasks():
                return self._dominant(self._mask_reader(size, tools), size)[0]
            case source:
                labels = check_labels(source, self._content, max_pixels=self._max_pixels)
                if labels is None:
                    self._check_classes()
                else:
                    self._check_claims(sorted(labels))
                return self._filled(source.boxes, size) if isinstance(source, Boxes) else None

    def find(self, size: tuple[int, int], tools: Tools) -> Segments:
        """The segments at the working size (width, height).

        Raises:
            InvalidInputError, WeightsUnavailableError, CancelledError: as `find_labels`.
        """
        if isinstance(self._source, SoftMasks):
            reader = self._mask_reader(size, tools)
            labels, warnings = self._dominant(reader, size)
            masks = partition(reader.weights(), labels, self._segments)
            return self._segments_of(labels, masks, (*reader.warnings, *warnings))
        labels, warnings = self._hard(size, tools)
        return self._segments_of(labels, None, warnings)

    def _filled(self, boxes: Sequence[Box], size: tuple[int, int]) -> LabelMap:
        """The boxes as if their objects filled them."""
        owner = owners(self._segments, segment_field="segments")
        width, height = size
        across, down = width / self._content.shape[1], height / self._content.shape[0]
        labels: LabelMap = np.full((height, width), owner[0], dtype=np.int32)
        for box in boxes:
            rows = slice(int(box.top * down), math.ceil(box.bottom * down))
            labels[rows, int(box.left * across) : math.ceil(box.right * across)] = owner[box.label]
        return labels

    def _segments_of(self, labels: LabelMap, masks: NDArray[np.float32] | None, warnings: Warnings) -> Segments:
        present = set(distinct(labels).tolist())
        styled = tuple(i for i, segment in enumerate(self._segments) if segment.style is not None and i in present)
        return Segments(labels=labels, masks=masks, styled=styled, warnings=warnings)

    def _hard(self, size: tuple[int, int], tools: Tools) -> tuple[LabelMap, Warnings]:
        if isinstance(self._source, Automatic):
            return self._classes(size, tools)
        claimed = owners(self._segments, segment_field="segments")
        labels, warnings = find_labels(
            self._source, self._content, claimed=claimed, max_pixels=self._max_pixels, tools=tools
        )
        indices = assign_segments(
            labels, self._segments, label_field=FIELDS[type(self._source)], segment_field="segments"
        )
        indices = resize_labels(indices, len(self._segments), *size, cancelled=tools.cancelled)
        lost = self._absent(indices)
        if lost:
            raise InvalidInputError(
                f"segments[{lost[0]}].labels", f"no pixel of the segment is left at the output size {size[0]}x{size[1]}"
            )
        return indices, warnings

    def _absent(self, indices: LabelMap) -> list[int]:
        return sorted(set(range(len(self._segments))) - set(distinct(indices).tolist()))

    def _mask_reader(self, size: tuple[int, int], tools: Tools) -> MaskReader:
        assert isinstance(self._source, SoftMasks)
        masked = {mask.label for mask in self._source.masks}
        owner = owners(self._segments, segment_field="segments")
        rest = {REST} if REST in owner else set()
        self._check_claims(sorted(masked | rest))
        return MaskReader(
            self._source,
            [segment.labels for segment in self._segments],
            content_size=(self._content.shape[1], self._content.shape[0]),
            size=size,
            max_pixels=self._max_pixels,
            cancelled=tools.cancelled,
        )

    def _dominant(self, reader: MaskReader, size: tuple[int, int]) -> tuple[LabelMap, Warnings]:
        labels, warnings = dominant(reader.weights(), size)
        lost = self._absent(labels)
        if lost:
            raise InvalidInputError(f"segments[{lost[0]}].labels", NOWHERE)
        return labels, warnings

    def _check_claims(self, labels: Sequence[int]) -> None:
        check_claims(labels, self._segments, label_field=FIELDS[type(self._source)], segment_field="segments")

    def _check_classes(self) -> dict[int, int]:
        """What each class belongs to, before it is known which of them there are."""
        owner = owners(self._segments, segment_field="segments")
        for label, index in owner.items():
            if label >= len(CLASSES):
                raise InvalidInputError(
                    f"segments[{index}].labels", f"label {label} is none of the classes 0 to {len(CLASSES) - 1}"
                )
        return owner

    def _classes(self, size: tuple[int, int], tools: Tools) -> tuple[LabelMap, Warnings]:
        """Who asks for classes cannot know which there are: a few too many or too few of them are no error."""
        owner = self._check_classes()
        labels, _ = find_labels(self._source, self._content, claimed=owner, max_pixels=self._max_pixels, tools=tools)
        warnings: list[tuple[str, str]] = []
        unclaimed = [label for label in distinct(labels).tolist() if label not in owner]
        if unclaimed:
            found = _names(unclaimed)
            if 0 not in owner:
                raise InvalidInputError("automatic", f"found {found}, which no segment claims, and none claims label 0")
            warnings.append(("classes_unclaimed", f"found {found}, which no segment claims; label 0's segment has it"))
        lookup = np.full(len(CLASSES), owner.get(0, 0), dtype=np.int32)
        lookup[list(owner)] = list(owner.values())
        indices = resize_labels(lookup[labels], len(self._segments), *size, cancelled=tools.cancelled)
        absent = self._absent(indices)
        for index in absent:
            wanted = _names(self._segments[index].labels)
            warnings.append(("segment_absent", f"no {wanted} was found: segments[{index}] has no pixel and no part"))
        if all(index in absent or segment.style is None for index, segment in enumerate(self._segments)):
            raise InvalidInputError("automatic", f"found {_names(distinct(labels).tolist())}, and nothing with a style")
        return indices, tuple(warnings)


def _names(labels: Sequence[int]) -> str:
    return ", ".join(f"{CLASSES[label]} ({label})" for label in labels)
