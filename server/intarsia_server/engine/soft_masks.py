"""Soft masks: how much each pixel belongs to each segment. No torch here: the front process checks them too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia_server.engine.cancel import Cancelled, never, poll
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.images import open_image, see_through
from intarsia_server.engine.label_repair import fill_nearest, fit_size
from intarsia_server.engine.request import Segment, SoftMask, SoftMasks
from intarsia_server.engine.segmentation import LabelMap

REST = 0
"""The label that has what the masks leave over, if none of them is its own."""

NOWHERE = "its mask is nowhere the largest"
"""Why a label or a segment has no pixel."""

Weights = NDArray[np.float32]
"""[H, W], 0..1."""


class MaskReader:
    """Reads a request's masks at the working size, one at a time: there may be hundreds.

    Args:
        source: the masks.
        labels: for each segment its labels; together those of all masks, and maybe `REST`.
        content_size: (width, height) that every mask must have, give or take two pixels.
        size: (width, height) to bring them to, by area averaging or bilinearly.
        max_pixels: largest picture to decode.
        cancelled: polled before each mask.
    """

    def __init__(
        self,
        source: SoftMasks,
        labels: Sequence[Sequence[int]],
        *,
        content_size: tuple[int, int],
        size: tuple[int, int],
        max_pixels: int,
        cancelled: Cancelled = never,
    ) -> None:
        self._masks = {mask.label: (index, mask) for index, mask in enumerate(source.masks)}
        self._labels = labels
        self._content_size = content_size
        self._size = size
        self._max_pixels = max_pixels
        self._cancelled = cancelled
        self.warnings: list[tuple[str, str]] = []

    def weights(self) -> Iterator[tuple[int, Weights]]:
        """Yields each segment's index and weight; the one with the rest comes last.

        Raises:
            InvalidInputError: a mask that is no grey picture, has another size or is black everywhere.
            CancelledError: `cancelled` said so.
        """
        width, height = self._size
        total = np.zeros((height, width), dtype=np.float32)
        rest = next((index for index, own in enumerate(self._labels) if REST in own and REST not in self._masks), None)
        order = [index for index in range(len(self._labels)) if index != rest]
        for index in [*order, *([] if rest is None else [rest])]:
            weight = np.zeros_like(total)
            for label in self._labels[index]:
                if label in self._masks:
                    weight += self._read(*self._masks[label])
            total += weight
            if index == rest:
                weight += np.maximum(0, 1 - total)
            yield index, weight

    def _read(self, index: int, mask: SoftMask) -> Weights:
        field = f"soft_masks.masks[{index}].image.data"
        poll(self._cancelled)
        values, white = _decode(mask.data, field, max_pixels=self._max_pixels)
        values, warnings = fit_size(values, *self._content_size, field)
        self.warnings += [warning for warning in warnings if warning not in self.warnings]
        if values.max() == 0:
            raise InvalidInputError(field, "is black everywhere")
        scaled = values.astype(np.float32) / white
        resampling = Image.Resampling.BOX if self._size[0] <= values.shape[1] else Image.Resampling.BILINEAR
        resized = np.asarray(Image.fromarray(scaled).resize(self._size, resampling))
        return resized.clip(0, 1)


def dominant(weights: Iterable[tuple[int, Weights]], size: tuple[int, int]) -> tuple[LabelMap, Warnings]:
    """The segment with the greatest weight at each pixel, the first among equals.

    Where all are 0, that of the nearest pixel where one is not.
    """
    width, height = size
    best = np.zeros((height, width), dtype=np.float32)
    labels: LabelMap = np.full((height, width), -1, dtype=np.int32)
    for index, weight in weights:
        greater = (weight > best) | ((weight == best) & (weight > 0) & (index < labels))
        labels[greater] = index
        np.maximum(best, weight, out=best)
    empty = labels < 0
    if not empty.any():
        return labels, ()
    message = f"no mask covers {int(empty.sum())} pixels of the result's size; they went to the nearest one"
    return fill_nearest(labels, empty), (("masks_filled", message),)


def partition(
    weights: Iterable[tuple[int, Weights]], labels: LabelMap, segments: Sequence[Segment]
) -> NDArray[np.float32]:
    """Masks of all segments: a partition of unity.

    Args:
        weights: of each segment, unnormalised.
        labels: the segment that dominates each pixel [H, W].
        segments: kept ones get hard masks, their own pixels' alone: a pixel is either kept to the bit or styled.

    Returns:
        [R, H, W], 0..1.
    """
    masks = np.zeros((len(segments), *labels.shape), dtype=np.float32)
    for index, weight in weights:
        masks[index] = weight
    kept = np.array([segment.style is None for segment in segments])
    masks[kept] = 0
    free = ~kept[labels]
    total = masks.sum(axis=0)
    masks *= np.divide(1, total, out=np.zeros_like(total), where=free & (total > 0))
    for index in range(len(segments)):
        masks[index][(labels == index) & (~free | (total == 0))] = 1
    return masks


def _decode(data: bytes, field: str, *, max_pixels: int) -> tuple[NDArray[np.int32], int]:
    """Grey values [H, W], and that of white."""
    image = open_image(data, field, max_pixels=max_pixels)
    if see_through(image) is not None:
        raise InvalidInputError(field, "is translucent; a mask is a grey picture, white where the label is")
    if not image.mode.startswith(("I", "F")):
        return np.asarray(image.convert("L")).astype(np.int32), 255
    if image.mode in {"I", "F"}:
        # 32 bits, or 16 with a sign: nobody can say which of their values is white.
        raise InvalidInputError(field, "has a pixel format other than 8 or 16 bits of grey")
    return np.asarray(image).astype(np.int32), 65535
