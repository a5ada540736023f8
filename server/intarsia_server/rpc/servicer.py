"""StyleTransferService: conversion in, conversion out."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1 import style_transfer_pb2_grpc as pb_grpc

from intarsia_server.engine.errors import CancelledError
from intarsia_server.engine.evaluation.inputs import check_evaluation_inputs
from intarsia_server.engine.inputs import Checked, check_inputs
from intarsia_server.engine.known_pictures import KnownPictures
from intarsia_server.engine.label_answer import check_segmentation
from intarsia_server.engine.label_finder import Tools
from intarsia_server.engine.parameters import METHODS
from intarsia_server.engine.request import Work
from intarsia_server.executors.base import EvaluatedEvent, Executor, FinalEvent, SegmentedEvent
from intarsia_server.jobs.forecast import Forecaster
from intarsia_server.jobs.manager import DrainingError, JobManager
from intarsia_server.jobs.model import Job
from intarsia_server.rpc.callers import Caller, caller_of
from intarsia_server.rpc.estimates import to_estimate_response
from intarsia_server.rpc.evaluations import to_evaluate_response
from intarsia_server.rpc.requests import (
    fields_of,
    to_estimated_request,
    to_evaluation_request,
    to_request_id,
    to_segmentation_request,
    to_transfer_request,
)
from intarsia_server.rpc.responses import PRECISIONS, ResponseStream, to_device, to_segment_response
from intarsia_server.settings import Settings

VERSIONED = ("intarsia", "torch", "torchvision", "grpcio", "protobuf", "pillow")

DECODERS = 2
"""Requests whose pictures are decoded at the same time: bounds the memory that strangers can make the front use."""


class StyleTransferServicer(pb_grpc.StyleTransferServiceServicer):
    """Serves the API on top of the job manager."""

    def __init__(self, jobs: JobManager, executor: Executor, settings: Settings) -> None:
        self._jobs = jobs
        self._executor = executor
        self._settings = settings
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="intarsia-decoder")
        self._checks: set[threading.Event] = set()
        self._known = KnownPictures()
        self._forecaster = Forecaster(executor, default_encoder=settings.encoder, max_pixels=settings.max_pixels)

    def cancel_checks(self) -> None:
        """Stops whatever is being checked: the server drains, and nothing that is not queued yet will be."""
        for cancel in self._checks:
            cancel.set()

    async def Stylize(  # noqa: N802 - the API's name
        self, request: pb.StylizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[pb.StylizeResponse, None]:
        """Runs one job; the job ends with the call, however that ends."""
        request_id = to_request_id(request)
        transfer_request = to_transfer_request(
            request, default_encoder=self._settings.encoder, encoders=self._settings.encoders
        )
        job = await self._submit(
            transfer_request,
            request_id,
            caller_of(context),
            lambda tools: check_inputs(transfer_request, max_pixels=self._settings.max_pixels, tools=tools),
            deadline=None if request.on_disconnect == pb.ON_DISCONNECT_DETACH else _deadline(context),
        )
        stream = ResponseStream(chunk_bytes=self._settings.result_chunk_bytes)
        try:
            async with asyncio.timeout(context.time_remaining()):
                async for numbered in job.log.read(heartbeat=self._settings.heartbeat_seconds):
                    if numbered is None:
                        yield stream.heartbeat(time.time())
                        continue
                    for message in stream.messages(numbered.sequence, numbered.time, numbered.event):
                        yield message
        finally:
            self._jobs.cancel(job)

    async def Segment(  # noqa: N802 - the API's name
        self, request: pb.SegmentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.SegmentResponse:
        """Finds the labels of one content image."""
        segmentation_request = to_segmentation_request(request)
        job = await self._submit(
            segmentation_request,
            str(uuid.uuid4()),
            caller_of(context),
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
        evaluation_request = to_evaluation_request(
            request, default_encoder=self._settings.encoder, encoders=self._settings.encoders
        )
        job = await self._submit(
            evaluation_request,
            str(uuid.uuid4()),
            caller_of(context),
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
        transfer_request = to_estimated_request(
            request, default_encoder=self._settings.encoder, encoders=self._settings.encoders
        )
        client = caller_of(context).client
        with fields_of("job"), self._jobs.admission.ask(client):
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
            client=client,
        )

    async def _submit(
        self,
        work: Work,
        request_id: str,
        caller: Caller,
        check: Callable[[Tools], Checked],
        *,
        deadline: float | None = None,
    ) -> Job:
        """Queues a job once `check` has decoded its pictures; `deadline` in monotonic seconds, None: none."""
        with self._jobs.admit(request_id, caller.client) as place:
            place.expect(await self._forecaster.by_headers(work), deadline)
            checked = await self._check(check)
            place.expect(await self._forecaster.of(work, checked), deadline)
            return self._jobs.submit(work, place, request_id=request_id, size=checked.size, areas=checked.areas)

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
        final: FinalEvent | None = None
        try:
            async with asyncio.timeout(context.time_remaining()):
                async for numbered in job.log.read(heartbeat=self._settings.heartbeat_seconds):
                    if numbered is not None and isinstance(numbered.event, FinalEvent):
                        final = numbered.event
        finally:
            self._jobs.cancel(job)
        assert final is not None
        return final

    async def GetServerInfo(  # noqa: N802 - the API's name
        self, request: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetServerInfoResponse:
        """Answers from what the workers reported at their start."""
        del request, context
        response = pb.GetServerInfoResponse(
            versions={name: importlib.metadata.version(name) for name in VERSIONED},
            default_encoder=self._settings.encoder,
            encoders=self._settings.encoders,
            queued_jobs=self._jobs.queued,
            running_jobs=self._jobs.running,
            queue_capacity=self._settings.queue_capacity,
            max_pixels=self._settings.max_pixels,
            max_message_bytes=self._settings.max_message_bytes,
            methods=METHODS,
        )
        response.versions["python"] = platform.python_version()
        info = self._executor.info()
        if info is not None:
            response.ready = True
            response.ops = info.ops
            response.default_precision = PRECISIONS[info.default_precision]
            response.devices.extend(map(to_device, info.devices))
        return response


def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Monotonic seconds at which nobody waits for the answer any more; None: never."""
    left = context.time_remaining()
    return None if left is None else time.monotonic() + left
