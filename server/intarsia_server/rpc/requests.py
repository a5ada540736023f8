"""From the API's requests to the engine's: conversion and the checks that need no picture."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.label_answer import MAX_LABEL
from intarsia_server.engine.parameters import DEFAULT_METHOD, PAPER_METHOD, check_range, resolve
from intarsia_server.engine.request import (
    Automatic,
    Box,
    Boxes,
    EvaluationRequest,
    ImageFormat,
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Scribbles,
    Segment,
    Segmentation,
    SegmentationModel,
    SegmentationRequest,
    SoftMask,
    SoftMasks,
    Start,
    TransferRequest,
    Until,
)
from intarsia_server.engine.segmentation import MAX_SEGMENTS
from intarsia_server.jobs.model import Payload

SIZE_RANGE = (32, 16384)
FACTOR_RANGE = (0.0, 1e6)
MEMORY_RANGE = (2**28, 2**50)
MAX_LABELS = 4096
"""Of one segment; a label map has rarely more in all."""


def to_request_id(request: pb.StylizeRequest) -> str:
    """The client's request id in canonical form, or a fresh one.

    Raises:
        InvalidInputError: not a UUID.
    """
    if not request.request_id:
        return str(uuid.uuid4())
    try:
        return str(uuid.UUID(request.request_id))
    except ValueError as error:
        raise InvalidInputError("request_id", "is not a UUID") from error


def to_payload(request: pb.StylizeRequest) -> Payload:
    """The job of a request, by itself: what is the call's own is left out. Blocks for as long as a large one takes."""
    job = pb.StylizeRequest()
    job.CopyFrom(request)
    job.ClearField("request_id")
    job.ClearField("on_disconnect")
    data = job.SerializeToString(deterministic=True)
    return Payload(data, hashlib.sha256(data).hexdigest())


def from_payload(data: bytes, *, default_encoder: str, encoders: Collection[str]) -> TransferRequest:
    """The job that `to_payload` was given.

    Raises:
        InvalidInputError: this server cannot carry it out.
    """
    return to_transfer_request(pb.StylizeRequest.FromString(data), default_encoder=default_encoder, encoders=encoders)


def to_transfer_request(
    request: pb.StylizeRequest, *, default_encoder: str, encoders: Collection[str]
) -> TransferRequest:
    """Checks and converts; every value that the client left open is filled in.

    Raises:
        InvalidInputError: with the field's path.
    """
    refuse_unknown_fields(request)
    segmentation = _segmentation(request)
    _check_encoder(request.encoder, encoders)
    segments = _segments(request.segments)
    output = _output(request.output)
    method, explicit, path = _method(request)
    optimization = _optimization(request.optimization, paper=request.paper)
    parameters = resolve(
        method,
        explicit,
        paper=request.paper,
        segment_count=len(segments),
        prefix=path,
        until_converged=optimization.until is Until.CONVERGED,
    )
    background = getattr(parameters, "background", None)
    if background is not None and segments[background].style is None:
        raise InvalidInputError(f"{path}.background", f"segments[{background}] is kept, the background needs a style")
    check_range("preview_interval", request.preview_interval, 0, 10_000)
    return TransferRequest(
        content=request.content.data,
        segmentation=segmentation,
        segments=segments,
        parameters=parameters,
        paper=request.paper,
        optimization=optimization,
        output=output,
        seed=request.seed,
        encoder=request.encoder or default_encoder,
        precision=_enum(Precision, pb.Precision, request.precision, Precision.AUTO, "precision"),
        preview_interval=request.preview_interval,
    )


def to_estimated_request(
    request: pb.EstimateRequest, *, default_encoder: str, encoders: Collection[str]
) -> TransferRequest:
    """Checks and converts the job that is asked about.

    Raises:
        InvalidInputError: with the field's path.
    """
    refuse_unknown_fields(request)
    if not request.HasField("job"):
        raise InvalidInputError("job", "is required")
    with fields_of("job"):
        to_request_id(request.job)
        return to_transfer_request(request.job, default_encoder=default_encoder, encoders=encoders)


@contextmanager
def fields_of(path: str) -> Iterator[None]:
    """Whatever field is refused within lies in the message at that path.

    Raises:
        InvalidInputError: with the path before the field's own.
    """
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}.{error.field}", error.reason) from error


def to_segmentation_request(request: pb.SegmentRequest) -> SegmentationRequest:
    """Checks and converts.

    Raises:
        InvalidInputError: with the field's path.
    """
    refuse_unknown_fields(request)
    return SegmentationRequest(content=request.content.data, segmentation=_segmentation(request))


def to_evaluation_request(
    request: pb.EvaluateRequest, *, default_encoder: str, encoders: Collection[str]
) -> EvaluationRequest:
    """Checks and converts.

    Raises:
        InvalidInputError: with the field's path.
    """
    refuse_unknown_fields(request)
    _check_encoder(request.encoder, encoders)
    return EvaluationRequest(
        content=request.content.data,
        label_map=request.label_map.data,
        segments=_segments(request.segments),
        result=request.result.data,
        encoder=request.encoder or default_encoder,
    )


def _check_encoder(name: str, encoders: Collection[str]) -> None:
    if name and name not in encoders:
        known = ", ".join(encoders)
        raise InvalidInputError("encoder", f"{name!r} is not known; this server has {known}")


def _segments(messages: Iterable[pb.Segment]) -> tuple[Segment, ...]:
    segments = tuple(_segment(segment, f"segments[{index}]") for index, segment in enumerate(messages))
    if not 1 <= len(segments) <= MAX_SEGMENTS:
        raise InvalidInputError("segments", f"has {len(segments)} entries, must have from 1 to {MAX_SEGMENTS}")
    if all(segment.style is None for segment in segments):
        raise InvalidInputError("segments", "keeps every segment; at least one needs a style")
    return segments


def _segmentation(request: pb.StylizeRequest | pb.SegmentRequest) -> Segmentation:
    match request.WhichOneof("segmentation"):
        case "label_map":
            return LabelMapSource(request.label_map.data)
        case "soft_masks":
            return _soft_masks(request.soft_masks, "soft_masks.masks")
        case "boxes":
            return _boxes(request.boxes, "boxes.boxes")
        case "scribbles":
            return Scribbles(request.scribbles.image.data)
        case "automatic":
            default = SegmentationModel.FCN_RESNET101
            path = "automatic.model"
            return Automatic(_enum(SegmentationModel, pb.SegmentationModel, request.automatic.model, default, path))
        case _:
            raise InvalidInputError("label_map", "a segmentation is required")


def _soft_masks(message: pb.SoftMasks, path: str) -> SoftMasks:
    check_range(path, len(message.masks), 1, MAX_SEGMENTS)
    labels: set[int] = set()
    for index, mask in enumerate(message.masks):
        label = check_range(f"{path}[{index}].label", mask.label, 0, MAX_LABEL)
        if label in labels:
            raise InvalidInputError(f"{path}[{index}].label", f"label {label} already has a mask")
        labels.add(label)
    return SoftMasks(tuple(SoftMask(mask.label, mask.image.data) for mask in message.masks))


def _boxes(message: pb.Boxes, path: str) -> Boxes:
    check_range(path, len(message.boxes), 1, MAX_SEGMENTS)
    return Boxes(
        tuple(
            Box(
                label=check_range(f"{path}[{index}].label", box.label, 1, MAX_LABEL),
                left=box.left,
                top=box.top,
                right=box.right,
                bottom=box.bottom,
            )
            for index, box in enumerate(message.boxes)
        )
    )


def _segment(segment: pb.Segment, path: str) -> Segment:
    if not 1 <= len(segment.labels) <= MAX_LABELS:
        count = len(segment.labels) or "no"
        raise InvalidInputError(f"{path}.labels", f"names {count} labels, must name from 1 to {MAX_LABELS}")
    look = segment.WhichOneof("look")
    if look is None or (look == "keep" and not segment.keep):
        raise InvalidInputError(f"{path}.style", "a segment needs a style image or keep")
    values = {}
    for name, (low, high) in {
        "style_weight": FACTOR_RANGE,
        "style_scale": (0.1, 4.0),
        "content_weight": FACTOR_RANGE,
    }.items():
        if segment.HasField(name):  # type: ignore[arg-type]  # names of this very message
            values[name] = check_range(f"{path}.{name}", float(getattr(segment, name)), low, high)
    style = segment.style.data if look == "style" else None
    return Segment(labels=tuple(segment.labels), style=style, **values)


def _method(request: pb.StylizeRequest) -> tuple[str, dict[str, Any], str]:
    """Name of the method, the knobs that are set, and the path of its parameters."""
    path = request.WhichOneof("method")
    if path is None:
        default = PAPER_METHOD if request.paper else DEFAULT_METHOD
        return default, {}, default.replace("-", "_")
    return path.replace("_", "-"), {field.name: value for field, value in getattr(request, path).ListFields()}, path


def _optimization(options: pb.Optimization, *, paper: bool) -> Optimization:
    path = "optimization"
    optimizer = Optimizer.ADAM if paper else Optimizer.LBFGS
    start = _enum(Start, pb.Start, options.start, Start.NOISE if paper else Start.PALETTE, f"{path}.start")
    rate = options.learning_rate if options.HasField("learning_rate") else (0.01 if paper else 0.02)
    history = options.history if options.HasField("history") else 10
    if start is Start.IMAGE and not options.start_image.data:
        raise InvalidInputError(f"{path}.start_image", "is required when the start is an image")
    if start is not Start.IMAGE and options.HasField("start_image"):
        raise InvalidInputError(f"{path}.start_image", "is given, but the start is not START_IMAGE")
    return Optimization(
        optimizer=_enum(Optimizer, pb.Optimizer, options.optimizer, optimizer, f"{path}.optimizer"),
        learning_rate=check_range(f"{path}.learning_rate", rate, 1e-6, 10.0),
        history=check_range(f"{path}.history", history, 1, 100),
        start=start,
        start_image=options.start_image.data if start is Start.IMAGE else None,
        until=_enum(Until, pb.Until, options.until, Until.STEPS, f"{path}.until"),
        memory_bytes=_memory(options),
    )


def _memory(options: pb.Optimization) -> int | None:
    if not options.HasField("memory_bytes"):
        return None
    return check_range("optimization.memory_bytes", options.memory_bytes, *MEMORY_RANGE)


def _output(output: pb.Output) -> Output:
    size = check_range("output.size", output.size, *SIZE_RANGE) if output.HasField("size") else None
    quality = check_range("output.quality", output.quality, 1, 100) if output.HasField("quality") else 92
    image_format = _enum(ImageFormat, pb.ImageFormat, output.format, ImageFormat.PNG, "output.format")
    return Output(size=size, format=image_format, quality=quality)


Choice = TypeVar("Choice", bound=StrEnum)


def _enum(kind: type[Choice], wrapper: Any, number: int, default: Choice, path: str) -> Choice:
    """The choice whose name the enum value has after its prefix; 0 is the default.

    Raises:
        InvalidInputError: a number that this server does not know.
    """
    if number == 0:
        return default
    if number not in wrapper.values():
        raise InvalidInputError(path, f"has the unknown value {number}")
    prefix = wrapper.Name(0).removesuffix("UNSPECIFIED")
    return kind(wrapper.Name(number).removeprefix(prefix).lower())


def images_of(message: Message) -> Iterator[tuple[str, pb.Image]]:
    """Every picture in a request, with its path.

    Raises:
        InvalidInputError: a list of more than `MAX_SEGMENTS` messages.
    """
    for path, part in _messages_in(message):
        if isinstance(part, pb.Image):
            yield path, part


def drop_pictures(message: Message) -> None:
    """Leaves of every picture in a request that it is there: the rest can then be checked without touching them.

    Raises:
        InvalidInputError: see `images_of`.
    """
    for _, image in images_of(message):
        if image.upload_id or image.data:
            image.data = b"-"
            image.ClearField("upload_id")


def refuse_unknown_fields(message: Message) -> None:
    """A field from a newer API must not be ignored: the result would silently be another one.

    Raises:
        InvalidInputError: naming the message that has one, or a list of more than `MAX_SEGMENTS` messages.
    """
    for path, part in _messages_in(message):
        unknown = UnknownFieldSet(part)
        if len(unknown):
            # A message may bring millions; a few of them say enough.
            numbers = ", ".join(str(unknown[index].field_number) for index in range(min(len(unknown), 8)))
            raise InvalidInputError(path or "request", f"has fields that this server does not know: number {numbers}")


def _messages_in(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """The message itself and all within it, each with its path, in the order of their fields.

    Raises:
        InvalidInputError: a list of more than `MAX_SEGMENTS` messages.
    """
    yield path, message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        name = f"{path}.{field.name}" if path else field.name
        if not field.is_repeated:
            yield from _messages_in(value, name)
            continue
        if len(value) > MAX_SEGMENTS:
            # Before the walk: a small message may hold a million entries, and the event loop would stand still.
            raise InvalidInputError(name, f"has {len(value)} entries, at most {MAX_SEGMENTS} are allowed")
        for index, item in enumerate(value):
            yield from _messages_in(item, f"{name}[{index}]")
