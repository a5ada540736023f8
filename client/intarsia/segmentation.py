"""Saying where the segments lie, or how to find out: label maps, masks, boxes, scribbles, networks."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from intarsia.errors import RequestError
from intarsia.images import ImageSource, to_image
from intarsia.parameters import enum_names, unknown
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Box", "SegmentationOptions", "build_segment_request", "model_names", "parse_label", "set_segmentation"]

Box = tuple[int | str, int, int, int, int]
"""Label, left, top, right, bottom, in pixels of the content image; right and bottom lie outside."""


class SegmentationOptions(TypedDict, total=False):
    """The keyword arguments that say where the segments lie; exactly one is to be given."""

    labels: ImageSource | None
    masks: Mapping[Any, ImageSource] | None
    boxes: Sequence[Box]
    scribbles: ImageSource | None
    automatic: str


def build_segment_request(
    content: ImageSource,
    *,
    labels: ImageSource | None = None,
    masks: Mapping[Any, ImageSource] | None = None,
    boxes: Sequence[Box] = (),
    scribbles: ImageSource | None = None,
    automatic: str = "",
) -> pb.SegmentRequest:
    """Builds a request for a label map; nothing is sent.

    Args:
        content: The content image. Every picture may be a path, encoded bytes or a PIL image.
        labels: As of `set_segmentation`, and so are the others.
        masks: Likewise.
        boxes: Likewise.
        scribbles: Likewise.
        automatic: Likewise.

    Raises:
        RequestError: Not exactly one is given, or a label or name that no request can carry.
        OSError: A file that cannot be read.
    """
    request = pb.SegmentRequest(content=to_image(content))
    set_segmentation(request, labels=labels, masks=masks, boxes=boxes, scribbles=scribbles, automatic=automatic)
    return request


def set_segmentation(
    request: pb.StylizeRequest | pb.SegmentRequest,
    *,
    labels: ImageSource | None,
    masks: Mapping[Any, ImageSource] | None,
    boxes: Sequence[Box],
    scribbles: ImageSource | None,
    automatic: str,
) -> None:
    """Fills in where the segments lie; exactly one of the arguments is to be given.

    Args:
        request: To fill in.
        labels: The label map, of the content image's size.
        masks: For each label a grey picture of the content image's size, white where the label is; what they leave over
            has label 0, unless that has a mask too.
        boxes: (label, left, top, right, bottom) around objects; what is in none of them has label 0.
        scribbles: A picture of the content image's size in which some pixels carry their label; the others are
            transparent, or 255 in a grey or palette picture.
        automatic: One of `model_names()`; labels are PASCAL VOC's class indices.

    Raises:
        RequestError: Not exactly one is given, or a label or name that no request can carry.
        OSError: A file that cannot be read.
    """
    given = {"labels": labels, "masks": masks, "boxes": boxes, "scribbles": scribbles, "automatic": automatic}
    chosen = [name for name, value in given.items() if value is not None and value not in ("", (), [], {})]
    if len(chosen) != 1:
        raise RequestError(f"give exactly one of {', '.join(given)}; got {' and '.join(chosen) or 'none'}")
    if labels is not None:
        request.label_map.CopyFrom(to_image(labels))
    elif masks:
        for label, mask in masks.items():
            request.soft_masks.masks.add(label=parse_label(label), image=to_image(mask))
    elif boxes:
        for box in boxes:
            request.boxes.boxes.append(_box(box))
    elif scribbles is not None:
        request.scribbles.image.CopyFrom(to_image(scribbles))
    else:
        request.automatic.model = pb.SegmentationModel.ValueType(_models()[_known_model(automatic)])


def model_names() -> list[str]:
    """Returns the networks that the API knows, as they are typed: "fcn-resnet101"; the default comes first."""
    return list(_models())


def parse_label(label: int | str) -> int:
    """Returns a label's number: 3, "3" and "#000003" are the same.

    Raises:
        RequestError: It is neither a number from 0 to 2^32 - 1 nor #rrggbb.
    """
    text = str(label)
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    number = int(text) if re.fullmatch("[0-9]{1,10}", text) else 2**32
    if number >= 2**32:
        raise RequestError(f"label '{label}' is neither a number from 0 to {2**32 - 1} nor a colour #rrggbb")
    return number


def _box(box: Box) -> pb.Box:
    label, *given = box
    try:
        sides = [operator.index(side) for side in given]  # whole numbers of any kind, numpy's too
    except TypeError:
        sides = []
    if len(sides) != 4 or not all(0 <= side < 2**32 for side in sides):
        raise RequestError(f"box {box}: expected label, left, top, right, bottom in whole pixels, 0 or more")
    left, top, right, bottom = sides
    return pb.Box(label=parse_label(label), left=left, top=top, right=right, bottom=bottom)


def _models() -> dict[str, int]:
    names = enum_names(pb.SegmentationModel.DESCRIPTOR)
    return {name.replace("_", "-"): number for name, number in names.items()}


def _known_model(name: str) -> str:
    if name not in _models():
        raise unknown("model", name, _models())
    return name
