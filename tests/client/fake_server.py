"""A server that replays a script: what the client's tests talk to."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceServicer, add_StyleTransferServiceServicer_to_server
from PIL import Image

Fake = TypeVar("Fake", bound="FakeServer")

Script = Callable[[pb.StylizeRequest, grpc.ServicerContext], Iterable[Message]]

Judge = Callable[[pb.EvaluateRequest, grpc.ServicerContext], pb.EvaluateResponse]

Guess = Callable[[pb.EstimateRequest, grpc.ServicerContext], pb.EstimateResponse]


def picture(width: int = 60, height: int = 40, colour: str = "orange", file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, file_format)
    return buffer.getvalue()


@dataclass
class FakeServer(StyleTransferServiceServicer):
    """Replays `script`; keeps what it was asked."""

    address: str
    script: Script
    requests: list[pb.StylizeRequest] = field(default_factory=list)
    segment_requests: list[pb.SegmentRequest] = field(default_factory=list)
    found: pb.SegmentResponse = field(default_factory=lambda: found_labels())  # noqa: PLW0108 - it is defined below
    segment_failure: Callable[[Any], None] | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    deadlines: list[float | None] = field(default_factory=list)
    evaluations: list[pb.EvaluateRequest] = field(default_factory=list)
    judge: Judge = field(default_factory=lambda: good_evaluation)
    estimates: list[pb.EstimateRequest] = field(default_factory=list)
    guess: Guess = field(default_factory=lambda: good_estimate)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    upload_messages: list[pb.UploadRequest] = field(default_factory=list)
    upload_failures: list[grpc.StatusCode] = field(default_factory=list)
    upload_retry_seconds: int | None = None
    max_message_bytes: int = 64 * 2**20

    def Stylize(self, request: pb.StylizeRequest, context: Any) -> Iterator[pb.StylizeResponse]:  # noqa: N802
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        context.add_callback(self.ended.set)
        for sequence, event in enumerate(self.script(request, context), 1):
            response = pb.StylizeResponse(sequence=sequence)
            response.event_time.FromSeconds(1_700_000_000 + sequence)
            getattr(response, event_field(event)).CopyFrom(event)
            yield response

    def Segment(self, request: pb.SegmentRequest, context: Any) -> pb.SegmentResponse:  # noqa: N802
        self.segment_requests.append(request)
        if self.segment_failure is not None:
            self.segment_failure(context)
        return self.found

    def Evaluate(self, request: pb.EvaluateRequest, context: Any) -> pb.EvaluateResponse:  # noqa: N802
        self.evaluations.append(request)
        self.deadlines.append(context.time_remaining())
        return self.judge(request, context)

    def Estimate(self, request: pb.EstimateRequest, context: Any) -> pb.EstimateResponse:  # noqa: N802
        self.estimates.append(request)
        self.deadlines.append(context.time_remaining())
        return self.guess(request, context)

    def Upload(self, requests: Iterator[pb.UploadRequest], context: Any) -> pb.UploadResponse:  # noqa: N802
        """Takes two messages a call while there are failures left to end it with."""
        for number, message in enumerate(requests):
            if number == 0:
                first = message
            self.upload_messages.append(message)
            kept = self.uploads.setdefault(first.upload_id, bytearray())
            if message.offset != len(kept):
                abort(context, grpc.StatusCode.INVALID_ARGUMENT, "offset", bad_request(("offset", "is wrong")))
            kept += message.data
            if number == 1 and self.upload_failures:
                hints = () if self.upload_retry_seconds is None else (retry_info(self.upload_retry_seconds),)
                failure = self.upload_failures.pop(0)
                if failure not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}:
                    # grpc.aio loses the status of calls that end while written to: a refusal must be read.
                    deque(requests, maxlen=0)
                abort(context, failure, "alas", *hints)
        received = bytes(self.uploads[first.upload_id])
        complete = len(received) == first.size_bytes and hashlib.sha256(received).hexdigest() == first.sha256
        return pb.UploadResponse(upload_id=first.upload_id, received_bytes=len(received), complete=complete)

    def GetUpload(self, request: pb.GetUploadRequest, context: Any) -> pb.GetUploadResponse:  # noqa: N802
        if request.upload_id not in self.uploads:
            abort(context, grpc.StatusCode.NOT_FOUND, "no such upload")
        return pb.GetUploadResponse(received_bytes=len(self.uploads[request.upload_id]))

    def GetServerInfo(self, *_: object) -> pb.GetServerInfoResponse:  # noqa: N802
        return pb.GetServerInfoResponse(
            versions={"intarsia": "1.2.3", "torch": "2.13.0"},
            devices=[
                pb.Device(name="cuda:0", description="A card", memory_bytes=80 * 2**30),
                pb.Device(name="cuda:1", description="A card", memory_bytes=80 * 2**30, used_memory_bytes=3 * 2**30),
            ],
            uptime=Duration(seconds=93_784, nanos=5),
            default_encoder="embedded",
            encoders=["embedded", "torchvision"],
            ops="torch",
            default_precision=pb.PRECISION_BF16,
            queue_capacity=16,
            max_pixels=50_000_000,
            max_message_bytes=self.max_message_bytes,
            max_upload_bytes=256 * 2**20,
            methods=["gatys", "masked_gram"],
        )


@contextmanager
def serving(address: str, script: Script) -> Iterator[FakeServer]:
    with running(FakeServer(address, script)) as fake:
        yield fake


@contextmanager
def running(fake: Fake) -> Iterator[Fake]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_StyleTransferServiceServicer_to_server(fake, server)
    server.add_insecure_port(fake.address)
    server.start()
    try:
        yield fake
    finally:
        server.stop(0).wait()


def found_labels(labels: tuple[int, int] = (0, 12)) -> pb.SegmentResponse:
    """The first label on the left, the second on the right quarter of 60 x 40 pixels, in the narrowest mode."""
    first, second = labels
    if second <= 255:
        image = Image.new("P", (60, 40), first)
        image.putpalette([index // 3 for index in range(768)])
        image.paste(second, (45, 0, 60, 40))
    elif second <= 65535:
        image = Image.new("I;16", (60, 40), first)
        for y in range(40):
            for x in range(45, 60):
                image.putpixel((x, y), second)
    else:
        colours = [(label >> 16, label >> 8 & 255, label & 255) for label in labels]
        image = Image.new("RGB", (60, 40), colours[0])
        image.paste(colours[1], (45, 0, 60, 40))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return pb.SegmentResponse(
        label_map=pb.Image(data=buffer.getvalue()),
        segments=[
            pb.FoundSegment(label=first, name="background", share=0.75),
            pb.FoundSegment(label=second, name="dog", share=0.25),
        ],
        warnings=[pb.WarningEvent(code="label_slivers_filled", message="a speck")],
    )


def event_field(event: Message) -> str:
    fields = pb.StylizeResponse.DESCRIPTOR.oneofs_by_name["event"].fields
    return next(field.name for field in fields if field.message_type == event.DESCRIPTOR)


def progress(step: int, total: int = 2, stage: str = "masked gram", segments: int = 2) -> pb.ProgressEvent:
    losses = [pb.Loss(name="content", value=1.5 / step)]
    losses += [pb.Loss(name="style", segment=segment, value=(segment + 1) / step) for segment in range(segments)]
    return pb.ProgressEvent(
        stage=stage,
        step=step,
        total_steps=total,
        losses=losses,
        total_loss=sum(loss.value for loss in losses),
        fraction=step / total,
        eta=Duration(seconds=total - step),
    )


def result_header(image: bytes, request: pb.StylizeRequest, chunks: int = 0) -> pb.ResultEvent:
    return pb.ResultEvent(
        image=None if chunks else pb.Image(data=image),
        format=request.output.format,
        width=60,
        height=40,
        size_bytes=len(image),
        sha256=hashlib.sha256(image).hexdigest(),
        chunk_count=chunks,
    )


def result_chunks(image: bytes, count: int) -> list[pb.ResultChunkEvent]:
    size = -(-len(image) // count)
    return [
        pb.ResultChunkEvent(index=index, offset=index * size, data=image[index * size : (index + 1) * size])
        for index in range(count)
    ]


def completed(steps: int = 2, stage: str = "masked gram") -> pb.CompletedEvent:
    return pb.CompletedEvent(
        queued_time=Duration(nanos=500_000_000),
        run_time=Duration(seconds=3),
        stages=[pb.StageSummary(stage=stage, steps=steps, run_time=Duration(seconds=3))],
    )


def good_job(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
    """Two steps, previews if asked for, and a picture."""
    yield pb.AcceptedEvent(job_id="job-1", request_id=request.request_id, width=60, height=40)
    yield pb.StageEvent(stage="masked gram", stage_count=1, total_steps=2)
    for step in (1, 2):
        yield progress(step, segments=len(request.segments))
        if request.preview_interval:
            image = pb.Image(data=picture(30, 20, "teal", "JPEG"))
            yield pb.PreviewEvent(stage="masked gram", step=step, image=image)
    names = {pb.IMAGE_FORMAT_JPEG: "JPEG", pb.IMAGE_FORMAT_WEBP: "WEBP"}
    yield result_header(picture(file_format=names.get(request.output.format, "PNG")), request)
    yield completed()


def good_evaluation(request: pb.EvaluateRequest, context: grpc.ServicerContext) -> pb.EvaluateResponse:
    """Figures for two styles and the border between them; a longer file gets a larger seam."""
    seam = 1 + len(request.result.data) / 1e6
    points = [pb.CurvePoint(offset=offset, value=(offset + 10) / 20) for offset in range(-10, 11, 4)]
    return pb.EvaluateResponse(
        width=60,
        height=40,
        style_margin=0.5,
        margins=[pb.StyleMargin(segment=0, area=0.6, distance=0.3, margin=0.5, nearest=1)],
        seam=pb.Seam(value=seam, profile=[pb.CurvePoint(offset=d, value=1 + 1 / (d + 1)) for d in range(16)]),
        content_seam=pb.Seam(value=2.5, profile=[pb.CurvePoint(offset=d, value=1.5) for d in range(16)]),
        transition=0.25,
        borders=[pb.Border(first=0, second=1, length=40, curve=points, jump=0.25)],
        content=0.75,
        structure=0.5,
    )


def good_estimate(request: pb.EstimateRequest, context: grpc.ServicerContext) -> pb.EstimateResponse:
    """An hour and a half of it, on an idle server."""
    return pb.EstimateResponse(
        width=60,
        height=40,
        run_time=Duration(seconds=6150),
        preparation=Duration(nanos=250_000_000),
        stages=[
            pb.StageEstimate(stage="coarse", steps=10, run_time=Duration(seconds=149, nanos=750_000_000)),
            pb.StageEstimate(stage="blend", steps=50, run_time=Duration(seconds=6000)),
        ],
        memory_bytes=512 * 2**20,
        idle_memory_bytes=700 * 2**20,
        queued_time=Duration(),
        device=pb.Device(name="cuda:0", memory_bytes=80 * 2**30),
        precision=pb.PRECISION_BF16,
    )


def endless_job(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
    """Begins, then waits for its cancellation."""
    ended = threading.Event()
    context.add_callback(ended.set)
    yield pb.AcceptedEvent(job_id="job-1", request_id=request.request_id, width=60, height=40)
    yield pb.StageEvent(stage="masked gram", stage_count=1, total_steps=1000)
    ended.wait(15)


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str, *details: Message) -> None:
    """Ends the call as the server does: with google.rpc details in the trailing metadata."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)


def bad_request(*violations: tuple[str, str]) -> Message:
    made: Message = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=name, description=text) for name, text in violations
        ]
    )
    return made


def retry_info(seconds: int) -> Message:
    made: Message = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=seconds))
    return made
