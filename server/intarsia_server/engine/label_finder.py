"""From any kind of segmentation to a label map of the content image. No torch here: the front process checks too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from intarsia_server.engine.cancel import Cancelled, never
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.grabcut import UNMARKED, boxes_to_labels, check_boxes, scribbles_to_labels
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.known_pictures import KnownPictures
from intarsia_server.engine.label_repair import fit_size, repair_labels
from intarsia_server.engine.request import (
    Automatic,
    Boxes,
    LabelMapSource,
    Scribbles,
    Segmentation,
    SegmentationModel,
    SoftMasks,
)
from intarsia_server.engine.segmentation import (
    MAX_SEGMENTS,
    LabelMap,
    decode_label_map,
    distinct,
    read_labels,
    read_marks,
)
from intarsia_server.engine.soft_masks import NOWHERE, REST, MaskReader, dominant

LABEL_MAP_FIELD = "label_map.data"
SCRIBBLES_FIELD = "scribbles.image.data"
FIELDS: Mapping[type[Segmentation], str] = {
    LabelMapSource: LABEL_MAP_FIELD,
    SoftMasks: "soft_masks.masks",
    Boxes: "boxes.boxes",
    Scribbles: SCRIBBLES_FIELD,
    Automatic: "automatic",
}
"""What names the labels of each kind of segmentation, in the spelling of the API."""


def _no_network(content: Pixels, model: SegmentationModel) -> LabelMap:
    raise NotImplementedError("only a worker has networks")


@dataclass(frozen=True)
class Tools:
    """What work on a request's pictures may need of whoever runs it.

    Attributes:
        classify: class index [H, W] of every pixel of a content image.
        cancelled: polled between pictures, and between labels where there may be many.
        known: style images that were checked before; None: each is decoded to be checked.
    """

    classify: Callable[[Pixels, SegmentationModel], LabelMap] = _no_network
    cancelled: Cancelled = never
    known: KnownPictures | None = None


NO_TOOLS = Tools()
"""For what needs none."""


def check_labels(source: Boxes | Scribbles | Automatic, content: Pixels, *, max_pixels: int) -> frozenset[int] | None:
    """Checks what can be checked without the seconds that GrabCut or a network takes.

    Returns:
        The labels that there will be; None when only the network can tell.

    Raises:
        InvalidInputError: with the field's path.
    """
    match source:
        case Boxes():
            height, width = content.shape[:2]
            check_boxes(source, width, height)
            return frozenset({0, *(box.label for box in source.boxes)})
        case Scribbles():
            marks, _ = _marks(source, content, max_pixels=max_pixels)
            return frozenset(distinct(marks[marks != UNMARKED]).tolist())
        case Automatic():
            return None


def find_labels(
    source: Segmentation, content: Pixels, *, claimed: Collection[int] | None, max_pixels: int, tools: Tools = NO_TOOLS
) -> tuple[LabelMap, Warnings]:
    """A label for every pixel of the content image.

    Args:
        source: of any kind.
        content: upright, RGB [H, W, 3].
        claimed: labels that somebody uses, to which slips in a label map are mended; None: it has to be right.
        max_pixels: largest picture to decode.
        tools: what boxes, scribbles and automatic segmentation need.

    Returns:
        [H, W], and what was worked around.

    Raises:
        InvalidInputError: with the field's path.
        WeightsUnavailableError, CancelledError: as the tools say.
    """
    height, width = content.shape[:2]
    match source:
        case LabelMapSource(data=data):
            if claimed is None:
                values = decode_label_map(data, LABEL_MAP_FIELD, max_pixels=max_pixels)
                return fit_size(values, width, height, LABEL_MAP_FIELD)
            picture = read_labels(data, LABEL_MAP_FIELD, max_pixels=max_pixels)
            values, resized = fit_size(picture.values, width, height, LABEL_MAP_FIELD)
            values, repaired = repair_labels(
                replace(picture, values=values), claimed, LABEL_MAP_FIELD, cancelled=tools.cancelled
            )
            return values, (*resized, *repaired)
        case SoftMasks():
            names = sorted({REST, *(mask.label for mask in source.masks)})
            size = (width, height)
            reader = MaskReader(
                source,
                [(name,) for name in names],
                content_size=size,
                size=size,
                max_pixels=max_pixels,
                cancelled=tools.cancelled,
            )
            indices, warnings = dominant(reader.weights(), size)
            found = distinct(indices)
            for index, mask in enumerate(source.masks):
                if names.index(mask.label) not in found:
                    raise InvalidInputError(f"soft_masks.masks[{index}].image.data", NOWHERE)
            return np.array(names, dtype=np.int32)[indices], (*reader.warnings, *warnings)
        case Boxes():
            check_boxes(source, width, height)
            return boxes_to_labels(content, source, cancelled=tools.cancelled), ()
        case Scribbles():
            marks, warnings = _marks(source, content, max_pixels=max_pixels)
            return scribbles_to_labels(content, marks, cancelled=tools.cancelled), warnings
        case Automatic(model=model):
            return tools.classify(content, model), ()


def _marks(source: Scribbles, content: Pixels, *, max_pixels: int) -> tuple[LabelMap, Warnings]:
    height, width = content.shape[:2]
    marks = read_marks(source.data, SCRIBBLES_FIELD, max_pixels=max_pixels)
    marks, warnings = fit_size(marks, width, height, SCRIBBLES_FIELD)
    count = len(distinct(marks[marks != UNMARKED]))
    if count < 2:
        raise InvalidInputError(SCRIBBLES_FIELD, f"marks {count} labels; there is nothing to tell apart below two")
    if count > MAX_SEGMENTS:
        # Each costs a run of GrabCut.
        raise InvalidInputError(SCRIBBLES_FIELD, f"marks {count} labels, at most {MAX_SEGMENTS} are allowed")
    if (marks != UNMARKED).all():
        raise InvalidInputError(
            SCRIBBLES_FIELD,
            "marks every pixel; unmarked ones are transparent, or 255 in an opaque grey or palette picture",
        )
    return marks, warnings
