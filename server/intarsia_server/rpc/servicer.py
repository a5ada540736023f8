"""StyleTransferService: conversion in, conversion out."""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1 import style_transfer_pb2_grpc as pb_grpc

from intarsia_server.engine.errors import CancelledError
from intarsia_server.engine.evaluation.inputs import check_evaluation_inputs
from intarsia_server.engine.inputs import Checked, check_inputs
from intarsia_server.engine.known_pictures import KnownPictures
from intarsia_server.engine.label_answer import check_segmentation
from intarsia_server.engine.label_finder import Tools
from intarsia_server.engine.parameters import METHODS, check_range
from intarsia_server.engine.request import Work
from intarsia_server.executors.base import EvaluatedEvent, Executor, FinalEvent, SegmentedEvent
from intarsia_server.jobs.admission import Place, QueueFullError
from intarsia_server.jobs.archive import EndedJobError
from intarsia_server.jobs.errors import DrainingError
from intarsia_server.jobs.events import StoredResultEvent
from intarsia_server.jobs.forecast import Forecaster
from intarsia_server.jobs.manager import LEAVE_SECONDS, JobManager
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord
from intarsia_server.jobs.uploads import UploadStore
from intarsia_server.logs import add_log_fields
from intarsia_server.rpc.callers import Caller, caller_of
from intarsia_server.rpc.errors import NoResultError
from intarsia_server.rpc.estimates import to_estimate_response
from intarsia_server.rpc.evaluations import to_evaluate_response
from intarsia_server.rpc.listing import to_page
from intarsia_server.rpc.requests import (
    drop_pictures,
    fields_of,
    refuse_unknown_fields,
    to_estimated_request,
    to_evaluation_request,
    to_payload,
    to_request_id,
    to_segmentation_request,
    to_transfer_request,
)
from intarsia_server.rpc.responses import PRECISIONS, Responses, to_device, to_job, to_segment_response
from intarsia_server.rpc.results import result_messages, result_responses
from intarsia_server.rpc.uploads import Uploads
from intarsia_server.settings import Settings
from intarsia_server.versions import versions

DECODERS = 2
"""Requests whose pictures are decoded at the same time: bounds the memory that strangers can make the front use."""


Asked = TypeVar("Asked", bound=Message)
Wanted = TypeVar("Wanted", bound=Work)


class StyleTransferServicer(pb_grpc.StyleTransferServiceServicer):
    """Serves the API on top of the job manager."""

    def __init__(self, jobs: JobManager, executor: Executor, uploads: UploadStore, settings: Settings) -> None:
        self._jobs = jobs
        self._executor = executor
        self._settings = settings
        self._uploads = Uploads(uploads, max_request_bytes=settings.max_request_bytes)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="intarsia-decoder")
        self._checks: set[threading.Event] = set()
        self._known = KnownPictures()
        self._responses = Responses()
        self._began = time.monotonic()
        self._forecaster = Forecaster(executor, default_encoder=settings.encoder, max_pixels=settings.max_pixels)

    def cancel_checks(self) -> None:
        """Stops whatever is being checked: the server drains, and nothing that is not queued yet will be."""
        for cancel in self._checks:
            cancel.set()

    async def Stylize(  # noqa: N802 - the API's name
        self, request: pb.StylizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[pb.StylizeResponse, None]:
        """Runs one job, or attaches to it; unless it is detached, it ends with the last call that has its events."""
        caller = caller_of(context)
        request_id = to_request_id(request)
        detached = request.on_disconnect == pb.ON_DISCONNECT_DETACH
        job = await self._sent_before(request, request_id, caller)
        if job is None:
            job = await self._stylize(request, request_id, caller, None if detached else _deadline(context))
        leave_seconds = math.inf if detached else LEAVE_SECONDS
        async with aclosing(self._events(job, context, leave_seconds=leave_seconds)) as responses:
            async for response in responses:
                yield response.event

    async def GetJob(  # noqa: N802 - the API's name
        self, request: pb.GetJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetJobResponse:
        """One job as it is now."""
        refuse_unknown_fields(request)
        return pb.GetJobResponse(job=to_job(_record(await self._job(request.job_id, context))))

    async def ListJobs(  # noqa: N802 - the API's name
        self, request: pb.ListJobsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListJobsResponse:
        """The caller's jobs, newest first."""
        page = to_page(request)
        records = await self._jobs.page(caller_of(context).owner, page.states, before=page.before, limit=page.size)
        return pb.ListJobsResponse(jobs=map(to_job, records), next_page_token=page.token_after(records))

    async def CancelJob(  # noqa: N802 - the API's name
        self, request: pb.CancelJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CancelJobResponse:
        """Stops a job."""
        refuse_unknown_fields(request)
        job = await self._job(request.job_id, context)
        if isinstance(job, Job):
            self._jobs.cancel(job)
        return pb.CancelJobResponse(job=to_job(_record(job)))

    async def WatchJob(  # noqa: N802 - the API's name
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[pb.WatchJobResponse, None]:
        """Streams a job's events; the job does not mind how the call ends."""
        refuse_unknown_fields(request)
        job = await self._job(request.job_id, context)
        async with aclosing(self._events(job, context, after=request.after_sequence)) as responses:
            async for response in responses:
                yield response

    async def GetResult(  # noqa: N802 - the API's name
        self, request: pb.GetResultRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[pb.GetResultResponse, None]:
        """The picture of a job that succeeded."""
        refuse_unknown_fields(request)
        record = _record(await self._job(request.job_id, context))
        outcome = record.outcome
        if record.status:
            raise EndedJobError(record.status)
        if outcome is None:
            raise NoResultError("the job makes no picture" if record.state.ended else "the job has not ended yet")
        check_range("offset", request.offset, 0, outcome.size_bytes)
        await self._jobs.check_result(outcome)
        responses = result_responses(
            outcome, self._jobs.read_result, offset=request.offset, chunk_bytes=self._settings.result_chunk_bytes
        )
        async for response in responses:
            yield response

    async def Segment(  # noqa: N802 - the API's name
        self, request: pb.SegmentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SegmentResponse:
        """Finds the labels of one content image."""
        caller = caller_of(context)
        async with self._admitted(request, caller, to_segmentation_request) as (place, segmentation_request):
            job = await self._submit(
                segmentation_request,
                place,
                str(uuid.uuid4()),
                caller.owner,
                lambda tools: Checked(
                    check_segmentation(segmentation_request, max_pixels=self._settings.max_pixels, tools=tools)
                ),
                deadline=_deadline(context),
            )
        event = await self._final_event(job, context)
        assert isinstance(event, SegmentedEvent)
        return to_segment_response(event)

    async def Evaluate(  # noqa: N802 - the API's name
        self, request: pb.EvaluateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EvaluateResponse:
        """Judges one picture."""
        caller = caller_of(context)
        convert = partial(
            to_evaluation_request, default_encoder=self._settings.encoder, encoders=self._settings.encoders
        )
        async with self._admitted(request, caller, convert) as (place, evaluation_request):
            job = await self._submit(
                evaluation_request,
                place,
                str(uuid.uuid4()),
                caller.owner,
                lambda tools: Checked(
                    check_evaluation_inputs(evaluation_request, max_pixels=self._settings.max_pixels, tools=tools)
                ),
                deadline=_deadline(context),
            )
        event = await self._final_event(job, context)
        assert isinstance(event, EvaluatedEvent)
        return to_evaluate_response(event.evaluation)

    async def Estimate(  # noqa: N802 - the API's name
        self, request: pb.EstimateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EstimateResponse:
        """Says what one job would take, from what is known of the device and of the jobs before it."""
        caller = caller_of(context)
        with self._jobs.admission.ask(caller.client):
            async with self._uploads.filled(request, caller):
                transfer_request = to_estimated_request(
                    request, default_encoder=self._settings.encoder, encoders=self._settings.encoders
                )
                with fields_of("job"):
                    checked = await self._check(
                        lambda tools: check_inputs(transfer_request, max_pixels=self._settings.max_pixels, tools=tools)
                    )
        async with asyncio.timeout(context.time_remaining()):
            info = await self._executor.started()
        return to_estimate_response(
            transfer_request,
            checked,
            info,
            self._jobs,
            self._forecaster,
            client=caller.client,
        )

    async def Upload(  # noqa: N802 - the API's name
        self, request_iterator: AsyncIterator[pb.UploadRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.UploadResponse:
        """Takes one picture, or some of it."""
        return await self._uploads.upload(request_iterator, caller_of(context))

    async def GetUpload(  # noqa: N802 - the API's name
        self, request: pb.GetUploadRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetUploadResponse:
        """Says how much of a picture has arrived."""
        return self._uploads.get_upload(request, caller_of(context))

    async def _sent_before(self, request: pb.StylizeRequest, request_id: str, caller: Caller) -> Job | JobRecord | None:
        """The job that the request has made already, if it has."""
        if not request.request_id or not await self._jobs.knows(caller.owner, request_id):
            return None
        async with self._uploads.filled(request, caller):
            return await self._jobs.find(caller.owner, request_id, await asyncio.to_thread(to_payload, request))

    async def _stylize(
        self, request: pb.StylizeRequest, request_id: str, caller: Caller, deadline: float | None
    ) -> Job:
        """The job of a request that is new."""
        convert = partial(to_transfer_request, default_encoder=self._settings.encoder, encoders=self._settings.encoders)
        async with self._admitted(request, caller, convert) as (place, transfer_request):
            return await self._submit(
                transfer_request,
                place,
                request_id,
                caller.owner,
                lambda tools: check_inputs(transfer_request, max_pixels=self._settings.max_pixels, tools=tools),
                deadline=deadline,
                message=request,
            )

    @asynccontextmanager
    async def _admitted(
        self, request: Asked, caller: Caller, convert: Callable[[Asked], Wanted]
    ) -> AsyncIterator[tuple[Place, Wanted]]:
        """A place for a request, and what it converts to. Who is refused is so before any picture is touched."""
        try:
            place = self._jobs.admit(caller.client)
        except QueueFullError:
            # What will never do is not to be tried again.
            drop_pictures(request)
            convert(request)
            raise
        with place:
            async with self._uploads.filled(request, caller):
                yield place, convert(request)

    async def _submit(
        self,
        work: Work,
        place: Place,
        request_id: str,
        owner: str,
        check: Callable[[Tools], Checked],
        *,
        deadline: float | None,
        message: pb.StylizeRequest | None = None,
    ) -> Job:
        """Takes a job once `check` has decoded its pictures.

        Args:
            work: to do.
            place: that the job takes.
            request_id: of the call.
            owner: of the job.
            check: of the work.
            deadline: monotonic seconds after which nobody wants the job any more; None: it is always wanted.
            message: that a later server can take the job up from; None: the job ends with this one.
        """
        place.expect(await self._forecaster.by_headers(work), deadline)
        checked = await self._check(check)
        place.expect(await self._forecaster.of(work, checked), deadline)
        return self._jobs.submit(
            work,
            place,
            request_id=request_id,
            size=checked.size,
            areas=checked.areas,
            payload=None if message is None else await asyncio.to_thread(to_payload, message),
            owner=owner,
        )

    async def _job(self, job_id: str, context: grpc.aio.ServicerContext[Any, Any]) -> Job | JobRecord:
        job = await self._jobs.get(job_id, caller_of(context).owner)
        add_log_fields(_record(job).names)
        return job

    async def _events(
        self,
        job: Job | JobRecord,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        after: int = 0,
        leave_seconds: float | None = None,
    ) -> AsyncGenerator[pb.WatchJobResponse, None]:
        """The messages of a job's events; see `JobManager.events`."""
        add_log_fields(_record(job).names)
        last = after
        async with (
            asyncio.timeout(context.time_remaining()),
            aclosing(
                self._jobs.events(
                    job, after=after, heartbeat=self._settings.heartbeat_seconds, leave_seconds=leave_seconds
                )
            ) as events,
        ):
            async for numbered in events:
                if numbered is None:
                    yield self._responses.heartbeat(last, time.time())
                    continue
                if isinstance(numbered.event, StoredResultEvent):
                    picture = result_messages(numbered, numbered.event, self._jobs.read_result, after=last)
                    async for response in picture:
                        yield response
                elif numbered.sequence > last:
                    for response in self._responses.messages(numbered):
                        yield response
                last = max(last, numbered.last)

    async def _check(self, check: Callable[[Tools], Checked]) -> Checked:
        """Runs a check aside; it stops when the call ends, by cancel or deadline, and when the server drains."""
        cancel = threading.Event()
        self._checks.add(cancel)
        tools = Tools(cancelled=cancel.is_set, known=self._known)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, check, tools)
        except CancelledError as error:
            raise DrainingError("the server is shutting down") from error
        finally:
            cancel.set()
            self._checks.discard(cancel)

    async def _final_event(self, job: Job, context: grpc.aio.ServicerContext[Any, Any]) -> FinalEvent:
        """What the job ends with; the job ends with the call, however that ends."""
        add_log_fields(job.names)
        final: FinalEvent | None = None
        async with (
            asyncio.timeout(context.time_remaining()),
            aclosing(self._jobs.events(job, heartbeat=self._settings.heartbeat_seconds, leave_seconds=0)) as events,
        ):
            async for numbered in events:
                if numbered is not None and isinstance(numbered.event, FinalEvent):
                    final = numbered.event
        assert final is not None
        return final

    async def GetServerInfo(  # noqa: N802 - the API's name
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetServerInfoResponse:
        """Answers from what the workers reported at their start."""
        del request, context
        response = pb.GetServerInfoResponse(
            versions=versions(),
            default_encoder=self._settings.encoder,
            encoders=self._settings.encoders,
            queued_jobs=self._jobs.queued,
            running_jobs=self._jobs.running,
            queue_capacity=self._settings.queue_capacity,
            max_pixels=self._settings.max_pixels,
            max_message_bytes=self._settings.max_message_bytes,
            max_upload_bytes=self._settings.max_upload_bytes,
            methods=METHODS,
        )
        response.uptime.FromTimedelta(timedelta(seconds=time.monotonic() - self._began))
        info = self._executor.info()
        if info is not None:
            response.ready = True
            response.ops = info.ops
            response.default_precision = PRECISIONS[info.default_precision]
            workers = self._executor.workers()
            response.devices.extend(to_device(device, workers) for device in info.devices)
        return response


def _record(job: Job | JobRecord) -> JobRecord:
    return job.record() if isinstance(job, Job) else job


def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Monotonic seconds at which nobody waits for the answer any more; None: never."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left
