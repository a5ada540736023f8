"""Building a StylizeRequest from what people have at hand: paths, labels, names."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from google.protobuf.message import Message

from intarsia.errors import RequestError
from intarsia.images import ImageSource, to_image
from intarsia.parameters import enum_names, set_parameter, unknown
from intarsia.quantities import parse_memory
from intarsia.segmentation import Box, SegmentationOptions, parse_label, set_segmentation
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = [
    "DEFAULT_METHOD",
    "KEEP",
    "PAPER_METHOD",
    "StyleSource",
    "Styles",
    "StylizeOptions",
    "build_request",
    "build_segments",
    "method_names",
    "parse_label",
    "segment_of",
    "with_request_id",
]

DEFAULT_METHOD = "blended"
PAPER_METHOD = "single-shot"
"""The default with `paper`: the publication's last attempt."""
KEEP = "keep"

StyleSource: TypeAlias = ImageSource
"""A style image, or "keep" for a segment that stays as it is (a file of that name: "./keep")."""

Styles: TypeAlias = Mapping[Any, StyleSource]
"""A style for each label, int or str: as `Mapping[int | str, ...]` it would not take a `dict[int, ...]`."""


class StylizeOptions(SegmentationOptions, total=False):
    """The keyword arguments of `build_request`, for the functions that pass them on."""

    styles: Styles
    segments: Sequence[pb.Segment]
    method: str | None
    paper: bool
    size: int | None
    steps: int | None
    until: str | None
    memory: int | str | None
    seed: int
    precision: str
    encoder: str
    preview_interval: int
    output_format: str
    parameters: Mapping[str, object]
    request_id: str
    detach: bool


def build_request(
    content: ImageSource,
    *,
    labels: ImageSource | None = None,
    masks: Mapping[Any, ImageSource] | None = None,
    boxes: Sequence[Box] = (),
    scribbles: ImageSource | None = None,
    automatic: str = "",
    styles: Styles | None = None,
    segments: Sequence[pb.Segment] = (),
    method: str | None = None,
    paper: bool = False,
    size: int | None = None,
    steps: int | None = None,
    until: str | None = None,
    memory: int | str | None = None,
    seed: int = 0,
    precision: str = "auto",
    encoder: str = "",
    preview_interval: int = 0,
    output_format: str = "png",
    parameters: Mapping[str, object] | None = None,
    request_id: str = "",
    detach: bool = False,
) -> pb.StylizeRequest:
    """Builds a request; nothing is sent.

    Args:
        content: The content image. Every picture may be a path, encoded bytes or a PIL image.
        labels: The label map, of the content image's size; or one of these, as `set_segmentation` has them:
        masks: A picture for each label.
        boxes: Around objects.
        scribbles: A few marked pixels of each label.
        automatic: The network that finds the segments.
        styles: A style image, or "keep", for each label: one segment per label, sorted by label.
            A label is a number (0 to 2^32 - 1), or "#rrggbb" for colour-coded label maps.
        segments: Instead of `styles`: the segments as the API has them (several labels in one, say).
        method: One of `method_names()`; None: `DEFAULT_METHOD`, with `paper` `PAPER_METHOD`.
        paper: Run the method with the publication's own objective, weights, optimizer, start and step counts.
        size: The result's longer side in pixels; None: the server's default.
        steps: Steps of the method's (main) stages; None: the method's default.
        until: "steps", or "converged": a stage ends when its objective has converged, after its steps at the latest;
            the default of `steps` is then 500. None: "steps".
        memory: What the server's worker may hold in all, in bytes or as "4GiB"; a picture that would take more is
            worked on in tiles. None: the server's default.
        seed: Seeds the noise start, 0 to 2^64 - 1.
        precision: "auto", "fp32" or "bf16".
        encoder: "embedded", "torchvision" or a name that the operator has registered; empty: the server's default.
        preview_interval: Steps between previews; 0: none.
        output_format: "png", "jpeg" or "webp".
        parameters: More knobs by their names in the proto, as values or as text. A key is looked up in the method's
            message, in Optimization, then in Output; "LABEL.key" in the segment of that label:
            {"capped_gradients": True, "optimizer": "adam", "start_image": "start.png", "1.style_weight": 2}.
        request_id: A UUID; a fresh one when empty. A request that was sent before attaches to its job.
        detach: The job goes on when nobody watches it.

    Returns:
        The request.

    Raises:
        RequestError: A name, label or value that no request can carry.
        OSError: A file that cannot be read.

    Example:
        >>> from intarsia.request import build_request
        >>> request = build_request(b"...", labels=b"...", styles={"#ff0000": b"...", 1: "keep"}, steps=50)
        >>> [list(segment.labels) for segment in request.segments], request.blended.steps
        ([[1], [16711680]], 50)
    """
    precisions = {"auto": 0, **enum_names(pb.Precision.DESCRIPTOR)}
    if precision not in precisions:
        raise unknown("precision", precision, precisions)
    request = pb.StylizeRequest(
        request_id=request_id or str(uuid.uuid4()),
        content=to_image(content),
        segments=build_segments(styles or {}, segments),
        paper=paper,
        encoder=encoder,
        precision=pb.Precision.ValueType(precisions[precision]),
        on_disconnect=pb.ON_DISCONNECT_DETACH if detach else pb.ON_DISCONNECT_UNSPECIFIED,
    )
    set_segmentation(request, labels=labels, masks=masks, boxes=boxes, scribbles=scribbles, automatic=automatic)
    for key, number in (("seed", seed), ("preview_interval", preview_interval)):
        set_parameter(key, number, [request])
    _set_parameters(
        request,
        _method_message(request, method or (PAPER_METHOD if paper else DEFAULT_METHOD)),
        {
            "steps": steps,
            "until": until,
            "memory_bytes": None if memory is None else parse_memory(memory),
            "size": size,
            "format": output_format,
        },
        parameters or {},
    )
    return request


def with_request_id(request: pb.StylizeRequest, *, fresh: bool = False) -> pb.StylizeRequest:
    """Returns the request with an id, so that it can be sent again without running twice.

    Args:
        request: Stays as it is.
        fresh: Another id than it has.
    """
    if request.request_id and not fresh:
        return request
    named = pb.StylizeRequest()
    named.CopyFrom(request)
    named.request_id = str(uuid.uuid4())
    return named


def method_names() -> list[str]:
    """Returns the methods that the API knows, as they are typed: "masked-gram"."""
    return [field.name.replace("_", "-") for field in pb.StylizeRequest.DESCRIPTOR.oneofs_by_name["method"].fields]


def build_segments(styles: Styles, segments: Sequence[pb.Segment]) -> list[pb.Segment]:
    """Returns the segments as the API has them, from either argument of `build_request`.

    Raises:
        RequestError: Both or neither are given, or a label is none or has two styles.
        OSError: A file that cannot be read.
    """
    if bool(styles) == bool(segments):
        raise RequestError("give either styles or segments, at least one")
    if segments:
        return list(segments)
    by_label: dict[int, pb.Segment] = {}
    for key, style in styles.items():
        label = parse_label(key)
        if label in by_label:
            raise RequestError(f"label {key} has two styles")
        by_label[label] = pb.Segment(labels=[label])
        if style == KEEP:
            by_label[label].keep = True
        else:
            by_label[label].style.CopyFrom(to_image(style))
    return [by_label[label] for label in sorted(by_label)]


def segment_of(segments: Sequence[pb.Segment], key: str, label: str) -> pb.Segment:
    """Returns the segment that has a label; `key` is what was typed, for the error.

    Raises:
        RequestError: It is no label, or none of theirs.
    """
    number = parse_label(label)
    for segment in segments:
        if number in segment.labels:
            return segment
    known = ", ".join(str(known) for segment in segments for known in segment.labels)
    raise RequestError(f"{key}: no segment has the label {label}. Labels: {known}.")


def _method_message(request: pb.StylizeRequest, method: str) -> Message:
    if method not in method_names():
        raise unknown("method", method, method_names())
    message: Message = getattr(request, method.replace("-", "_"))
    message.SetInParent()
    return message


def _set_parameters(
    request: pb.StylizeRequest, method: Message, named: Mapping[str, object], parameters: Mapping[str, object]
) -> None:
    twice = [key for key in parameters if named.get(key) is not None]
    if twice:
        raise RequestError(f"{twice[0]} is given both by its own argument and as a parameter")
    knobs = (method, request.optimization, request.output)
    for key, value in {**named, **parameters}.items():
        if value is None:
            continue
        label, dot, _ = key.rpartition(".")
        set_parameter(key, value, [segment_of(request.segments, key, label)] if dot else knobs)
    # A start image is given to be started from.
    if request.optimization.HasField("start_image") and not request.optimization.start:
        request.optimization.start = pb.START_IMAGE
