"""From the jobs' events to messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.device_info import DeviceInfo
from intarsia_server.engine.events import TransferWarning, Warnings
from intarsia_server.engine.request import ImageFormat, Precision
from intarsia_server.engine.stages import LossValue, StageDone, StageStarted
from intarsia_server.executors.base import (
    PreviewEvent,
    ProgressEvent,
    ResumedEvent,
    SegmentedEvent,
    WorkerStatus,
)
from intarsia_server.jobs.events import (
    AcceptedEvent,
    CompletedEvent,
    JobEvent,
    Numbered,
    QueuedEvent,
    SnapshotEvent,
)
from intarsia_server.jobs.record import JobRecord, JobState, Outcome

FORMATS = {
    ImageFormat.PNG: pb.IMAGE_FORMAT_PNG,
    ImageFormat.JPEG: pb.IMAGE_FORMAT_JPEG,
    ImageFormat.WEBP: pb.IMAGE_FORMAT_WEBP,
}
STATES = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
PRECISIONS = {Precision.FP32: pb.PRECISION_FP32, Precision.BF16: pb.PRECISION_BF16}


class Responses:
    """Messages of events. Many calls may watch one job: what is the same for all of them is made once."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Numbered, tuple[pb.WatchJobResponse, ...]] = WeakKeyDictionary()

    def heartbeat(self, sequence: int, time: float) -> pb.WatchJobResponse:
        """A heartbeat after the message with that number, at that time (seconds since the epoch)."""
        return to_message(sequence, time, pb.StylizeResponse(heartbeat=pb.HeartbeatEvent()))

    def messages(self, numbered: Numbered) -> Iterable[pb.WatchJobResponse]:
        """The message that an event becomes, if it becomes one; a result's are made by `result_messages`."""
        if numbered not in self._made:
            self._made[numbered] = tuple(self._make(numbered))
        return self._made[numbered]

    def _make(self, numbered: Numbered) -> Iterator[pb.WatchJobResponse]:
        for response in self._convert(numbered.event):
            yield to_message(numbered.sequence, numbered.time, response)

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
            case ResumedEvent():
                yield pb.StylizeResponse(resumed=pb.ResumedEvent(stage=event.stage, step=event.step))
            case StageStarted():
                yield pb.StylizeResponse(stage=_stage(event))
            case ProgressEvent():
                yield pb.StylizeResponse(progress=_progress(event))
            case PreviewEvent():
                preview = pb.PreviewEvent(stage=event.stage, step=event.step, image=pb.Image(data=event.image))
                yield pb.StylizeResponse(preview=preview)
            case TransferWarning():
                yield pb.StylizeResponse(warning=pb.WarningEvent(code=event.code, message=event.message))
            case SnapshotEvent():
                yield pb.StylizeResponse(snapshot=_snapshot(event))
            case CompletedEvent():
                yield pb.StylizeResponse(
                    completed=pb.CompletedEvent(
                        queued_time=to_duration(event.queued_seconds),
                        run_time=to_duration(event.run_seconds),
                        stages=[_summary(stage) for stage in event.stages],
                    )
                )


def to_result(outcome: Outcome) -> pb.ResultEvent:
    """A picture's header."""
    return pb.ResultEvent(
        format=FORMATS[outcome.format],
        width=outcome.width,
        height=outcome.height,
        size_bytes=outcome.size_bytes,
        sha256=outcome.sha256,
    )


def to_job(record: JobRecord) -> pb.Job:
    """A job as it is at one moment."""
    job = pb.Job(
        job_id=record.job_id,
        request_id=record.request_id,
        state=STATES[record.state],
        kind=record.kind,
        create_time=to_timestamp(record.created_at),
        width=record.size[0],
        height=record.size[1],
        queue_position=record.queue_position,
        fraction=record.fraction,
        sequence=record.sequence,
        result_bytes=0 if record.outcome is None else record.outcome.size_bytes,
        attempts=record.attempts,
    )
    if record.began_at is not None:
        job.start_time.CopyFrom(to_timestamp(record.began_at))
    if record.ended_at is not None:
        job.end_time.CopyFrom(to_timestamp(record.ended_at))
    if record.status:
        status = status_pb2.Status.FromString(record.status)
        job.error_code, job.error_message = status.code, status.message
    return job


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


def to_timestamp(seconds: float) -> Timestamp:
    """From seconds since the epoch."""
    stamp = Timestamp()
    stamp.FromMicroseconds(int(seconds * 1e6))
    return stamp


def to_message(sequence: int, time: float, response: pb.StylizeResponse) -> pb.WatchJobResponse:
    """An event's message with its number and its time (seconds since the epoch)."""
    response.sequence = sequence
    response.event_time.CopyFrom(to_timestamp(time))
    return pb.WatchJobResponse(event=response)


def _snapshot(event: SnapshotEvent) -> pb.SnapshotEvent:
    return pb.SnapshotEvent(
        job=to_job(event.job),
        stage=None if event.stage is None else _stage(event.stage),
        progress=None if event.progress is None else _progress(event.progress),
    )


def _stage(event: StageStarted) -> pb.StageEvent:
    return pb.StageEvent(stage=event.stage, index=event.index, stage_count=event.stage_count, total_steps=event.steps)


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
