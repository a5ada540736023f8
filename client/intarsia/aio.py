"""The asyncio client: the blocking one's twin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc import aio

from intarsia.channel import CHANNEL_OPTIONS, check_address
from intarsia.embedded import EmbeddedServer
from intarsia.errors import IntarsiaError, from_rpc_error
from intarsia.evaluation import EvaluationOptions, build_evaluation
from intarsia.images import ImageSource
from intarsia.request import StylizeOptions, build_request
from intarsia.result import Result, ResultAssembler
from intarsia.segmentation import SegmentationOptions, build_segment_request
from intarsia.tracing import traced
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

__all__ = ["AsyncClient", "AsyncStylization"]


class AsyncClient:
    """A connection to an Intarsia server, for the event loop in which it is made.

    Args:
        address: "HOST:PORT" or "unix:PATH".
        credentials: For TLS; None: plain text.

    Raises:
        RequestError: The address has neither form.

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

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.address = check_address(address)
        self._channel = (
            aio.insecure_channel(address, CHANNEL_OPTIONS)
            if credentials is None
            else aio.secure_channel(address, credentials, CHANNEL_OPTIONS)
        )
        self._stub = StyleTransferServiceStub(traced(self._channel))

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
            async with cls(server.address) as client:
                yield client
        finally:
            await asyncio.to_thread(server.stop)

    async def stylize(
        self,
        content: ImageSource,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 (the call's deadline: the server hears of it)
        **options: Unpack[StylizeOptions],
    ) -> AsyncStylization:
        """Starts a job; `build_request` says what the options are.

        Args:
            content: The content image.
            timeout: Seconds until the job is given up (the call's deadline); None: never.
            options: As of `build_request`.

        Raises:
            RequestError: No request can be built from the options.
            OSError: A file that cannot be read.
        """
        request = await asyncio.to_thread(build_request, content, **options)  # reads files
        return self.start(request, timeout)

    def start(self, request: pb.StylizeRequest, timeout: float | None = None) -> AsyncStylization:
        """Starts the job of a ready-made request; otherwise as `stylize`."""
        return AsyncStylization(request, self._stub.Stylize(request, timeout=timeout))

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
        request = await asyncio.to_thread(build_segment_request, content, **options)  # reads files
        try:
            return await self._stub.Segment(request, timeout=timeout)
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
        request = await asyncio.to_thread(build_evaluation, content, result, **options)  # reads files
        try:
            return await self._stub.Evaluate(request, timeout=timeout)
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
        try:
            return await self._stub.Estimate(pb.EstimateRequest(job=request), timeout=timeout)
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
        """Closes the connection and cancels the jobs that are still running on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncStylization:
    """A running job: iterate over its events, or ask for its result.

    Leaving an `async with` block cancels a job that has not ended; so does cancelling the task that waits for it.

    Attributes:
        request: What was sent.
    """

    def __init__(
        self, request: pb.StylizeRequest, call: aio.UnaryStreamCall[pb.StylizeRequest, pb.StylizeResponse]
    ) -> None:
        self.request = request
        self._call = call
        self._events = aiter(call)
        self._assembler = ResultAssembler()
        self._failure: IntarsiaError | None = None

    def __aiter__(self) -> AsyncIterator[pb.StylizeResponse]:
        return self

    async def __anext__(self) -> pb.StylizeResponse:
        """Returns the next event as soon as it arrives.

        Raises:
            IntarsiaError: The job failed, was cancelled or ran past its deadline.
        """
        if self._failure is not None:
            raise self._failure  # gRPC's iterator would only say that it has ended
        try:
            response = await anext(self._events)
        except grpc.RpcError as error:
            self._failure = from_rpc_error(error)
            raise self._failure from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC raises this for a cancelled call as well, which must not look like a cancelled task.
            self._failure = IntarsiaError(grpc.StatusCode.CANCELLED, "the job was cancelled")
            raise self._failure from error
        self._assembler.add(response)
        return response

    async def result(self) -> Result:
        """Waits for the job's end, passing over the events that were not iterated over, and returns its result.

        Raises:
            IntarsiaError: As `anext`; DATA_LOSS when the result did not arrive whole.
        """
        async for _ in self:
            pass
        return self._assembler.finish()

    def cancel(self) -> None:
        """Cancels the job, here and on the server; without effect once it has ended."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
