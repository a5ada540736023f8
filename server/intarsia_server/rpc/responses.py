"""From the jobs' events to messages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.device_info import DeviceInfo
from intarsia_server.engine.events import LossValue, StageDone, StageStarted, TransferWarning, Warnings
from intarsia_server.engine.request import ImageFormat, Precision
from intarsia_server.executors.base import (
    PreviewEvent,
    ProgressEvent,
    ResultEvent,
    SegmentedEvent,
    WorkerStatus,
)
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, JobEvent, QueuedEvent

FORMATS = {
    ImageFormat.PNG: pb.IMAGE_FORMAT_PNG,
    ImageFormat.JPEG: pb.IMAGE_FORMAT_JPEG,
    ImageFormat.WEBP: pb.IMAGE_FORMAT_WEBP,
}
PRECISIONS = {Precision.FP32: pb.PRECISION_FP32, Precision.BF16: pb.PRECISION_BF16}


class ResponseStream:
    """Numbers and dates the messages of one call.

    The numbers are the job's own as long as one event is one message; a result in chunks and heartbeats, which only
    the call knows, push the later ones on.
    """

    def __init__(self, *, chunk_bytes: int) -> None:
        self._chunk_bytes = chunk_bytes
        self._last = 0
        self._extra = 0

    def heartbeat(self, time: float) -> pb.StylizeResponse:
        """A heartbeat at that time (seconds since the epoch)."""
        self._extra += 1
        self._last += 1
        return self._response(time, pb.StylizeResponse(heartbeat=pb.HeartbeatEvent()))

    def messages(self, sequence: int, time: float, event: JobEvent) -> Iterator[pb.StylizeResponse]:
        """The message, or several for a large result, that an event becomes."""
        for index, response in enumerate(self._convert(event)):
            self._extra += index > 0
            self._last = sequence + self._extra
            yield self._response(time, response)

    def _response(self, time: float, response: pb.StylizeResponse) -> pb.StylizeResponse:
        response.sequence = self._last
        stamp = Timestamp()
        stamp.FromMicroseconds(int(time * 1e6))
        response.event_time.CopyFrom(stamp)
        return response

    def _convert(self, event: JobEvent) -> Iterator[pb.StylizeResponse]:
        match event:
            case AcceptedEvent():
                yield pb.StylizeResponse(
                    accepted=pb.AcceptedEvent(
                        job_id=event.job_id,
                        request_id=event.request_id,
                        queue_position=event.queue_position,
                        width=event.width,
                        height=event.height,
                    )
                )
            case QueuedEvent():
                yield pb.StylizeResponse(queued=pb.QueuedEvent(queue_position=event.queue_position))
            case StageStarted():
                yield pb.StylizeResponse(
                    stage=pb.StageEvent(
                        stage=event.stage,
                        index=event.index,
                        stage_count=event.stage_count,
                        total_steps=event.steps,
                    )
                )
            case ProgressEvent():
                yield pb.StylizeResponse(progress=_progress(event))
            case PreviewEvent():
                preview = pb.PreviewEvent(stage=event.stage, step=event.step, image=pb.Image(data=event.image))
                yield pb.StylizeResponse(preview=preview)
            case TransferWarning():
                yield pb.StylizeResponse(warning=pb.WarningEvent(code=event.code, message=event.message))
            case ResultEvent():
                yield from self._result(event)
            case CompletedEvent():
                yield pb.StylizeResponse(
                    completed=pb.CompletedEvent(
                        queued_time=to_duration(event.queued_seconds),
                        run_time=to_duration(event.run_seconds),
                        stages=[_summary(stage) for stage in event.stages],
                    )
                )

    def _result(self, event: ResultEvent) -> Iterator[pb.StylizeResponse]:
        """The picture whole, or a header and chunks."""
        data, size = event.image, self._chunk_bytes
        result = pb.ResultEvent(
            format=FORMATS[event.format],
            width=event.width,
            height=event.height,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        if len(data) <= size:
            result.image.data = data
            yield pb.StylizeResponse(result=result)
            return
        result.chunk_count = -(-len(data) // size)
        yield pb.StylizeResponse(result=result)
        for index, offset in enumerate(range(0, len(data), size)):
            chunk = pb.ResultChunkEvent(index=index, offset=offset, data=data[offset : offset + size])
            yield pb.StylizeResponse(result_chunk=chunk)


def to_segment_response(event: SegmentedEvent) -> pb.SegmentResponse:
    """The answer to a SegmentRequest."""
    found = event.found
    return pb.SegmentResponse(
        label_map=pb.Image(data=found.label_map),
        segments=[pb.FoundSegment(label=label.label, name=label.name, share=label.share) for label in found.labels],
        warnings=to_warnings(found.warnings),
    )


def to_device(device: DeviceInfo, workers: Iterable[WorkerStatus] = ()) -> pb.Device:
    """A device, as a message, with what those of the workers that are on it hold of it."""
    held = (worker.device_memory or worker.resident_memory for worker in workers if worker.device == device.name)
    return pb.Device(
        name=device.name,
        description=device.description,
        memory_bytes=device.memory_bytes,
        threads=device.threads,
        used_memory_bytes=sum(held),
    )


def to_warnings(warnings: Warnings) -> list[pb.WarningEvent]:
    """What had to be worked around, as messages."""
    return [pb.WarningEvent(code=code, message=message) for code, message in warnings]


def to_duration(seconds: float) -> Duration:
    """As a message."""
    duration = Duration()
    duration.FromMicroseconds(int(seconds * 1e6))
    return duration


def _progress(event: ProgressEvent) -> pb.ProgressEvent:
    progress = pb.ProgressEvent(
        stage=event.stage,
        step=event.step,
        total_steps=event.total_steps,
        losses=_losses(event.losses),
        total_loss=event.total_loss,
        fraction=event.fraction,
        converged=event.converged,
    )
    if event.eta_seconds is not None:
        progress.eta.CopyFrom(to_duration(event.eta_seconds))
    return progress


def _summary(stage: StageDone) -> pb.StageSummary:
    return pb.StageSummary(
        stage=stage.stage,
        steps=stage.steps,
        run_time=to_duration(stage.seconds),
        final_losses=_losses(stage.losses),
        final_total_loss=stage.total,
        converged=stage.converged,
        targets=stage.targets,
        cached_targets=stage.cached_targets,
    )


def _losses(losses: Iterable[LossValue]) -> Iterator[pb.Loss]:
    for name, segment, value in losses:
        yield pb.Loss(name=name, segment=segment, value=value)
