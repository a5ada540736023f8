"""Building an EvaluateRequest from what people have at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Required, TypedDict

from intarsia.images import ImageSource, to_image
from intarsia.request import Styles, build_segments
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["EvaluationOptions", "build_evaluation"]


class EvaluationOptions(TypedDict, total=False):
    """The keyword arguments of `build_evaluation`, for the functions that pass them on."""

    labels: Required[ImageSource]
    styles: Styles
    segments: Sequence[pb.Segment]
    encoder: str


def build_evaluation(
    content: ImageSource,
    result: ImageSource,
    *,
    labels: ImageSource,
    styles: Styles | None = None,
    segments: Sequence[pb.Segment] = (),
    encoder: str = "",
) -> pb.EvaluateRequest:
    """Builds a request; nothing is sent.

    Args:
        content: The content image. Every picture may be a path, encoded bytes or a PIL image.
        result: The finished picture, of the content image's proportions and any size.
        labels: The label map, of the content image's size.
        styles: As of `build_request`.
        segments: Likewise.
        encoder: Likewise.

    Raises:
        RequestError: A name or label that no request can carry.
        OSError: A file that cannot be read.
    """
    return pb.EvaluateRequest(
        content=to_image(content),
        label_map=to_image(labels),
        segments=build_segments(styles or {}, segments),
        result=to_image(result),
        encoder=encoder,
    )
