"""A server that keeps its jobs, and whose streams break off where a test says so."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from fake_server import FakeServer, abort, completed, event_field, good_job, picture, progress, result_chunks
from fake_server import result_header as header
from google.protobuf.message import Message
from intarsia.v1 import style_transfer_pb2 as pb

EVENTS = 9
CHUNKS = 3
ENDED = (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED)


def numbered(sequence: int, event: Message) -> pb.StylizeResponse:
    response = pb.StylizeResponse(sequence=sequence)
    response.event_time.FromSeconds(1_700_000_000 + sequence)
    getattr(response, event_field(event)).CopyFrom(event)
    return response


@dataclass
class LastingServer(FakeServer):
    """Every job has the same nine events, all of them at once, unless it is `endless`.

    Attributes:
        breaks: Of the streams to come, in turn: after how many events each breaks off; None: it does not.
        break_with: What it breaks off with.
        result_breaks: The same of downloads, in messages.
        jobs: By id, oldest first.
        kept_from: Of events before that number, watchers get a snapshot.
        forgetful: Loses its jobs and uploads when a stream breaks.
        cancels_on_break: As a server does that sees the break.
        endless: Jobs never get further than their third event, until they are cancelled.
        refusals: What Stylize ends with, in turn.
    """

    script: Any = good_job
    breaks: deque[int | None] = field(default_factory=deque)
    break_with: tuple[grpc.StatusCode, str] = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
    result_breaks: deque[int | None] = field(default_factory=deque)
    jobs: dict[str, pb.Job] = field(default_factory=dict)
    kept_from: int = 1
    forgetful: bool = False
    cancels_on_break: bool = False
    endless: bool = False
    refusals: deque[tuple[grpc.StatusCode, str, tuple[Message, ...], tuple[tuple[str, str], ...]]] = field(
        default_factory=deque
    )
    watches: list[pb.WatchJobRequest] = field(default_factory=list)
    downloads: list[pb.GetResultRequest] = field(default_factory=list)
    pages: list[pb.ListJobsRequest] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    image: bytes = field(default_factory=picture)
    announced_sha256: str = ""

    def add(self, state: pb.JobState.ValueType = pb.JOB_STATE_SUCCEEDED, job_id: str = "", **fields: Any) -> pb.Job:
        job = pb.Job(job_id=job_id or f"job-{len(self.jobs) + 1}", state=state, width=60, height=40, fraction=1)
        job.create_time.FromSeconds(1_700_000_000)
        job.start_time.FromSeconds(1_700_000_002)
        job.end_time.FromSeconds(1_700_000_005)
        job.MergeFrom(pb.Job(**{"kind": "masked_gram", "sequence": EVENTS, **fields}))
        self.jobs[job.job_id] = job
        return job

    def fail(self, job: pb.Job, code: grpc.StatusCode, message: str) -> None:
        job.state = pb.JOB_STATE_CANCELLED if code is grpc.StatusCode.CANCELLED else pb.JOB_STATE_FAILED
        job.error_code, job.error_message = code.value[0], message

    def log(self, job: pb.Job) -> list[pb.StylizeResponse]:
        request = pb.StylizeRequest()
        events = [
            pb.AcceptedEvent(job_id=job.job_id, request_id=job.request_id, width=60, height=40),
            pb.StageEvent(stage="masked gram", stage_count=1, total_steps=2),
            progress(1),
            progress(2),
            header(self.image, request, chunks=CHUNKS),
            *result_chunks(self.image, CHUNKS),
            completed(),
        ]
        return [numbered(sequence, event) for sequence, event in enumerate(events, 1)]

    def Stylize(self, request: pb.StylizeRequest, context: Any) -> Iterator[pb.StylizeResponse]:  # noqa: N802
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        if self.refusals:
            code, message, details, metadata = self.refusals.popleft()
            if metadata:
                context.set_trailing_metadata(metadata)
                context.abort(code, message)
            abort(context, code, message, *details)
        job = next((job for job in self.jobs.values() if job.request_id == request.request_id), None)
        if job is None:
            state = pb.JOB_STATE_RUNNING if self.endless else pb.JOB_STATE_SUCCEEDED
            job = self.add(state, request_id=request.request_id)
        yield from self._stream(job, 0, 1, context)

    def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> Iterator[pb.WatchJobResponse]:  # noqa: N802
        self.watches.append(request)
        job = self._job(request.job_id, context)
        for response in self._stream(job, request.after_sequence, self.kept_from, context):
            yield pb.WatchJobResponse(event=response)

    def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:  # noqa: N802
        return pb.GetJobResponse(job=self._job(request.job_id, context))

    def ListJobs(self, request: pb.ListJobsRequest, _context: Any) -> pb.ListJobsResponse:  # noqa: N802
        self.pages.append(request)
        newest_first = list(reversed(self.jobs.values()))
        jobs = [job for job in newest_first if not request.states or job.state in request.states]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return pb.ListJobsResponse(jobs=jobs[start:end], next_page_token=str(end) if end < len(jobs) else "")

    def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:  # noqa: N802
        job = self._job(request.job_id, context)
        if job.state not in ENDED:
            self.fail(job, grpc.StatusCode.CANCELLED, "the job was cancelled")
            self.cancelled.set()
        return pb.CancelJobResponse(job=job)

    def GetResult(self, request: pb.GetResultRequest, context: Any) -> Iterator[pb.GetResultResponse]:  # noqa: N802
        self.downloads.append(request)
        job = self._job(request.job_id, context)
        result = header(self.image, pb.StylizeRequest(), chunks=1)
        result.chunk_count = 0
        result.sha256 = self.announced_sha256 or result.sha256
        limit = self.result_breaks.popleft() if self.result_breaks else None
        step = len(self.image) // 4
        for count, offset in enumerate(range(request.offset, len(self.image), step)):
            if count == limit:
                context.abort(*self.break_with)
            data = self.image[offset : offset + step]
            yield pb.GetResultResponse(result=None if count else result, offset=offset, data=data)
        if job.state not in ENDED:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the job has not ended yet")

    def _job(self, job_id: str, context: Any) -> pb.Job:
        if job_id not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such job")
        return self.jobs[job_id]

    def _stream(self, job: pb.Job, after: int, kept_from: int, context: Any) -> Iterator[pb.StylizeResponse]:
        limit = self.breaks.popleft() if self.breaks else None
        events = [event for event in self.log(job) if event.sequence > after]
        if events and events[0].sequence < kept_from:
            snapshot = numbered(kept_from - 1, pb.SnapshotEvent(job=job, progress=progress(1)))
            events = [snapshot, *(event for event in events if event.sequence >= kept_from)]
        if job.state == pb.JOB_STATE_RUNNING:
            events = [event for event in events if event.sequence <= 3]
        yield from events[:limit]
        if limit is not None:
            self._break(job, context)
        if job.state == pb.JOB_STATE_RUNNING:
            ended = threading.Event()
            context.add_callback(ended.set)
            while not ended.wait(0.01) and not self.cancelled.is_set():
                pass
        if job.error_code:
            code = next(code for code in grpc.StatusCode if code.value[0] == job.error_code)
            context.abort(code, job.error_message)

    def _break(self, job: pb.Job, context: Any) -> NoReturn:
        if self.forgetful:
            self.jobs.clear()
            self.uploads.clear()
        if self.cancels_on_break:
            self.fail(job, grpc.StatusCode.CANCELLED, "the job was cancelled")
        context.abort(*self.break_with)
        raise AssertionError  # abort does not return
