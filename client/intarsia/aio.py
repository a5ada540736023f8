"""The asyncio client: the blocking one's twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, Unpack
from weakref import WeakSet

import grpc
from grpc import aio

from intarsia.aio_stylization import AsyncStylization, fetch_result
from intarsia.attachment import Attachment
from intarsia.channel import CHANNEL_OPTIONS, check_address
from intarsia.credentials import check_token, with_token
from intarsia.download import Download
from intarsia.embedded import EmbeddedServer
from intarsia.errors import IntarsiaError, from_rpc_error
from intarsia.evaluation import EvaluationOptions, build_evaluation
from intarsia.images import ImageSource, to_image
from intarsia.jobs import build_list_request, named
from intarsia.patience import REATTACH_SECONDS, Patience
from intarsia.request import StylizeOptions, build_request, with_request_id
from intarsia.result import Result, ResultAssembler
from intarsia.segmentation import SegmentationOptions, build_segment_request
from intarsia.tracing import traced
from intarsia.uploads import Request, Sending, Timer, fits, inline_limit, largest_images
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

__all__ = ["AsyncClient", "AsyncStylization"]


class AsyncClient:
    """A connection to an Intarsia server, for the event loop in which it is made.

    Large pictures are uploaded before the request that has them, as `Client` does.

    Args:
        address: "HOST:PORT" or "unix:PATH".
        credentials: For TLS, from `tls_credentials`; None: plain text.
        token: For a server that lets nobody in without; in plain text for loopback and Unix sockets alone.
        reattach_seconds: How long a job is held on to while the server cannot be reached, from its last event on; 0: a
            broken connection is the end of it.

    Raises:
        RequestError: The address has neither form, or the token may not go there.

    Example:
        `address` is that of a running server, and the pictures lie in the working folder:

        >>> import asyncio
        >>> from intarsia import AsyncClient
        >>> async def steps() -> int:
        ...     async with AsyncClient(address) as client:
        ...         job = await client.stylize("content.png", labels="labels.png", styles={0: "brush.png", 1: "keep"})
        ...         done = [event.progress.step async for event in job if event.HasField("progress")]
        ...         (await job.result()).save("out.png")
        ...         return max(done)
        >>> asyncio.run(steps())
        2
    """

    def __init__(
        self,
        address: str,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        *,
        reattach_seconds: float = REATTACH_SECONDS,
    ) -> None:
        self.address = check_address(address)
        if token is not None:
            check_token(token, address, credentials)
        self._channel = (
            aio.insecure_channel(address, CHANNEL_OPTIONS)
            if credentials is None
            else aio.secure_channel(address, credentials, CHANNEL_OPTIONS)
        )
        self._stub = StyleTransferServiceStub(traced(with_token(self._channel, token)))
        self._reattach_seconds = reattach_seconds
        self._inline_limit = 0  # not asked yet
        self._open_jobs: WeakSet[AsyncStylization] = WeakSet()

    @classmethod
    @asynccontextmanager
    async def embedded(cls) -> AsyncIterator[Self]:
        """Starts a private server and connects to it; both end with the `async with` block.

        Raises:
            IntarsiaError: The server is not installed or does not start.
        """
        server = EmbeddedServer()
        try:
            await asyncio.to_thread(server.start)
            async with cls(server.address, reattach_seconds=0) as client:  # such a server does not come back
                yield client
        finally:
            await asyncio.to_thread(server.stop)

    async def stylize(
        self,
        content: ImageSource,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (the call's deadline: the server hears of it)
        wait_when_busy: float = 0,
        **options: Unpack[StylizeOptions],
    ) -> AsyncStylization:
        """Starts a job; `build_request` says what the options are.

        Args:
            content: The content image.
            timeout: Seconds until the job is given up, waiting and breaks included; None: never.
            wait_when_busy: How many seconds to try again for while the server refuses the job for a full queue or a
                used up quota, after the delays that it names.
            options: As of `build_request`.

        Raises:
            RequestError: No request can be built from the options.
            OSError: A file that cannot be read.
            IntarsiaError: A large picture could not be uploaded.
        """
        timer = Timer(timeout)
        request = await asyncio.to_thread(build_request, content, **options)  # reads files
        job = self.start(request, timer.left(), wait_when_busy)
        await job.send()
        return job

    def start(
        self, request: pb.StylizeRequest, timeout: float | None = None, wait_when_busy: float = 0
    ) -> AsyncStylization:
        """Starts the job of a ready-made request; otherwise as `stylize`.

        One with large pictures is sent by the job's `send`, or once its first event is waited for.
        """
        attachment = Attachment(
            detached=request.on_disconnect == pb.ON_DISCONNECT_DETACH,
            timeout=timeout,
            reattach_seconds=self._reattach_seconds,
            wait_when_busy=wait_when_busy,
        )
        return self._opened(
            AsyncStylization(self._stub, attachment, with_request_id(request), self._without_large_images)
        )

    def watch(self, job_id: str, after_sequence: int = 0, *, timeout: float | None = None) -> AsyncStylization:
        """Listens to a job, whoever sent it; leaving it does nothing to the job.

        Args:
            job_id: The server's name for it.
            after_sequence: The number of the last event that is not wanted; 0: all that are kept.
            timeout: Seconds until it is given up; None: never.

        Raises:
            RequestError: The name is empty, as a job's is until its first event has arrived.
        """
        attachment = Attachment(named(job_id), after_sequence, timeout=timeout, reattach_seconds=self._reattach_seconds)
        return self._opened(AsyncStylization(self._stub, attachment))

    async def result(self, job_id: str, timeout: float | None = None) -> Result:  # noqa: ASYNC109
        """Fetches the picture of a job that succeeded; after a break, what is left of it.

        Args:
            job_id: The server's name for it.
            timeout: Seconds until it is given up; None: never.

        Raises:
            IntarsiaError: FAILED_PRECONDITION: the job has not ended; the job's own status if it failed or was
                cancelled; NOT_FOUND: there is no such job, or its result is not kept any more; DATA_LOSS: the picture
                did not arrive whole; or the call failed.
        """
        download = Download(job_id, Patience(timeout, self._reattach_seconds))
        await fetch_result(self._stub, download)
        assembler = ResultAssembler()
        download.fill_in(assembler)
        return assembler.finish()

    async def get_job(self, job_id: str, timeout: float | None = 10) -> pb.Job:  # noqa: ASYNC109
        """Asks how a job stands.

        Raises:
            IntarsiaError: NOT_FOUND: there is no such job; or the call failed.
        """
        try:
            return (await self._stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=timeout)).job
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def list_jobs(
        self, states: Iterable[str] = (), *, page_size: int = 100, timeout: float | None = 10
    ) -> AsyncIterator[pb.Job]:
        """Gives the caller's jobs, newest first, a page at a time.

        Args:
            states: Those in one of these alone, of `state_names()`; empty: in any.
            page_size: 1 to 1000.
            timeout: Seconds for each page.

        Raises:
            RequestError: A state that does not exist.
            IntarsiaError: A call failed.
        """
        return self._pages(build_list_request(states, page_size), timeout)

    async def cancel_job(self, job_id: str, timeout: float | None = 10) -> pb.Job:  # noqa: ASYNC109
        """Cancels a job, without effect once it has ended, and returns how it stands.

        Raises:
            IntarsiaError: NOT_FOUND: there is no such job; or the call failed.
        """
        try:
            return (await self._stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=timeout)).job
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def upload(self, source: ImageSource, *, upload_id: str = "", timeout: float | None = None) -> pb.Image:  # noqa: ASYNC109
        """Sends a picture ahead, for any number of requests; every argument that takes a picture takes what it returns.

        The server keeps it for as long as it is used, and an hour (by default) after.

        Args:
            source: The picture.
            upload_id: A name for it, 1 to 64 of A-Z, a-z, 0-9, "-" and "_", to take up again what an earlier program
                began; a fresh one when empty.
            timeout: Seconds until it is given up; None: never.

        Raises:
            RequestError: A PIL image that cannot be sent.
            OSError: A file that cannot be read.
            IntarsiaError: It was refused, did not arrive in time, or the server was away for too long.
        """
        timer = Timer(timeout)
        image = await asyncio.to_thread(to_image, source)  # reads files
        return await self._send(await asyncio.to_thread(Sending, image.data, upload_id), timer)

    async def segment(
        self,
        content: ImageSource,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[SegmentationOptions],
    ) -> pb.SegmentResponse:
        """Finds the labels of a content image; `build_segment_request` says what the options are.

        Args:
            content: The content image.
            timeout: Seconds until it is given up (the call's deadline); None: never.
            options: As of `build_segment_request`.

        Returns:
            A label map, what is in it, and warnings.

        Raises:
            RequestError: No request can be built from the options.
            OSError: A file that cannot be read.
            IntarsiaError: The call failed, or `timeout` seconds have passed.
        """
        timer = Timer(timeout)
        request = await asyncio.to_thread(build_segment_request, content, **options)  # reads files
        sent = await self._without_large_images(request, timer)
        try:
            return await self._stub.Segment(sent, timeout=timer.left())
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def evaluate(
        self,
        content: ImageSource,
        result: ImageSource,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[EvaluationOptions],
    ) -> pb.EvaluateResponse:
        """Judges a finished picture; `build_evaluation` says what the options are.

        Args:
            content: The content image.
            result: The picture.
            timeout: Seconds until it is given up (the call's deadline); None: never.
            options: As of `build_evaluation`.

        Raises:
            RequestError: No request can be built from the options.
            OSError: A file that cannot be read.
            IntarsiaError: The call failed, or `timeout` seconds have passed.
        """
        timer = Timer(timeout)
        request = await asyncio.to_thread(build_evaluation, content, result, **options)  # reads files
        sent = await self._without_large_images(request, timer)
        try:
            return await self._stub.Evaluate(sent, timeout=timer.left())
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def estimate(
        self,
        content: ImageSource,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        **options: Unpack[StylizeOptions],
    ) -> pb.EstimateResponse:
        """Asks how long a job would take and how much memory; `build_request` says what the options are.

        Args:
            content: The content image.
            timeout: Seconds until it is given up (the call's deadline); None: never.
            options: As of `build_request`.

        Raises:
            RequestError: No request can be built from the options.
            OSError: A file that cannot be read.
            IntarsiaError: The call failed, or `timeout` seconds have passed.
        """
        request = await asyncio.to_thread(build_request, content, **options)  # reads files
        return await self.ask_estimate(request, timeout)

    async def ask_estimate(self, request: pb.StylizeRequest, timeout: float | None = None) -> pb.EstimateResponse:  # noqa: ASYNC109
        """Asks about the job of a ready-made request; otherwise as `estimate`."""
        timer = Timer(timeout)
        sent = await self._without_large_images(request, timer)
        try:
            return await self._stub.Estimate(pb.EstimateRequest(job=sent), timeout=timer.left())
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def server_info(self, timeout: float | None = 10) -> pb.GetServerInfoResponse:  # noqa: ASYNC109
        """Asks the server what it is, what it runs on and what it accepts.

        Raises:
            IntarsiaError: The call failed, or `timeout` seconds have passed.
        """
        try:
            return await self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def wait_ready(self, timeout: float) -> None:  # noqa: ASYNC109
        """Waits until the server can be reached.

        Raises:
            IntarsiaError: UNAVAILABLE after `timeout` seconds.
        """
        try:
            await asyncio.wait_for(self._channel.channel_ready(), timeout)
        except TimeoutError as error:
            message = f"no server could be reached at {self.address} within {timeout:g} s"
            raise IntarsiaError(grpc.StatusCode.UNAVAILABLE, message) from error

    async def close(self) -> None:
        """Closes the connection and cancels the jobs that are still running on it, but for detached ones."""
        await asyncio.gather(*(job.close() for job in list(self._open_jobs)))
        await self._channel.close()

    async def _send(self, sending: Sending, timer: Timer) -> pb.Image:
        while True:
            try:
                if sending.broken:
                    asked = pb.GetUploadRequest(upload_id=sending.upload_id)
                    sending.resume(await self._stub.GetUpload(asked, timeout=timer.left()))
                return sending.finish(await self._stub.Upload(sending.messages(), timeout=timer.left()))
            except grpc.RpcError as error:
                await asyncio.sleep(sending.wait_after(from_rpc_error(error), timer))

    async def _without_large_images(self, request: Request, timer: Timer) -> Request:
        """Uploads the pictures that do not fit and returns the request as it travels: with references to them."""
        if fits(request):
            return request
        if not self._inline_limit:
            self._inline_limit = inline_limit((await self.server_info(timer.left())).max_message_bytes)
        sent = type(request)()
        sent.CopyFrom(request)
        for images in largest_images(sent, self._inline_limit):
            reference = await self._send(await asyncio.to_thread(Sending, images[0].data), timer)
            for image in images:
                image.CopyFrom(reference)
        return sent

    def _opened(self, job: AsyncStylization) -> AsyncStylization:
        self._open_jobs.add(job)
        return job

    async def _pages(self, request: pb.ListJobsRequest, timeout: float | None) -> AsyncIterator[pb.Job]:  # noqa: ASYNC109
        while True:
            try:
                page = await self._stub.ListJobs(request, timeout=timeout)
            except grpc.RpcError as error:
                raise from_rpc_error(error) from error
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
