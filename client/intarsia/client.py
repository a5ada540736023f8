"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self, Unpack

import grpc

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

__all__ = ["Client", "Stylization"]


class Client:
    """A connection to an Intarsia server; safe to share between threads.

    Args:
        address: "HOST:PORT" or "unix:PATH".
        credentials: For TLS; None: plain text.

    Raises:
        RequestError: The address has neither form.

    Example:
        `address` is that of a running server, and the pictures lie in the working folder:

        >>> from intarsia import Client
        >>> with Client(address) as client:
        ...     job = client.stylize("content.png", labels="labels.png", styles={0: "brush.png", 1: "keep"}, steps=2)
        ...     losses = [event.progress.total_loss for event in job if event.HasField("progress")]
        ...     result = job.result()
        >>> len(losses), result.format, len(result.warnings)
        (2, 'png', 0)
        >>> result.save("out.png")
    """

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.address = check_address(address)
        self._channel = (
            grpc.insecure_channel(address, CHANNEL_OPTIONS)
            if credentials is None
            else grpc.secure_channel(address, credentials, CHANNEL_OPTIONS)
        )
        self._stub = StyleTransferServiceStub(traced(self._channel))

    @classmethod
    @contextmanager
    def embedded(cls) -> Iterator[Self]:
        """Starts a private server and connects to it; both end with the `with` block.

        Raises:
            IntarsiaError: The server is not installed or does not start.
        """
        with EmbeddedServer() as server, cls(server.address) as client:
            yield client

    def stylize(
        self, content: ImageSource, *, timeout: float | None = None, **options: Unpack[StylizeOptions]
    ) -> Stylization:
        """Starts a job; `build_request` says what the options are.

        Args:
            content: The content image.
            timeout: Seconds until the job is given up (the call's deadline); None: never.
            options: As of `build_request`.

        Raises:
            RequestError: No request can be built from the options.
            OSError: A file that cannot be read.
        """
        return self.start(build_request(content, **options), timeout)

    def start(self, request: pb.StylizeRequest, timeout: float | None = None) -> Stylization:
        """Starts the job of a ready-made request; otherwise as `stylize`."""
        return Stylization(request, self._stub.Stylize(request, timeout=timeout))

    def segment(
        self, content: ImageSource, *, timeout: float | None = None, **options: Unpack[SegmentationOptions]
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
        request = build_segment_request(content, **options)
        try:
            return self._stub.Segment(request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def evaluate(
        self,
        content: ImageSource,
        result: ImageSource,
        *,
        timeout: float | None = None,
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
        request = build_evaluation(content, result, **options)
        try:
            return self._stub.Evaluate(request, timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def estimate(
        self,
        content: ImageSource,
        *,
        timeout: float | None = None,
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
        return self.ask_estimate(build_request(content, **options), timeout)

    def ask_estimate(self, request: pb.StylizeRequest, timeout: float | None = None) -> pb.EstimateResponse:
        """Asks about the job of a ready-made request; otherwise as `estimate`."""
        try:
            return self._stub.Estimate(pb.EstimateRequest(job=request), timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def server_info(self, timeout: float | None = 10) -> pb.GetServerInfoResponse:
        """Asks the server what it is, what it runs on and what it accepts.

        Raises:
            IntarsiaError: The call failed, or `timeout` seconds have passed.
        """
        try:
            return self._stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def wait_ready(self, timeout: float) -> None:
        """Waits until the server can be reached.

        Raises:
            IntarsiaError: UNAVAILABLE after `timeout` seconds.
        """
        try:
            grpc.channel_ready_future(self._channel).result(timeout=timeout)
        except grpc.FutureTimeoutError as error:
            message = f"no server could be reached at {self.address} within {timeout:g} s"
            raise IntarsiaError(grpc.StatusCode.UNAVAILABLE, message) from error

    def close(self) -> None:
        """Closes the connection and cancels the jobs that are still running on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Call(Iterator[pb.StylizeResponse], Protocol):
    def cancel(self) -> bool: ...


class Stylization:
    """A running job: iterate over its events, or ask for its result.

    Leaving a `with` block cancels a job that has not ended.

    Attributes:
        request: What was sent.
    """

    def __init__(self, request: pb.StylizeRequest, call: _Call) -> None:
        self.request = request
        self._call = call
        self._assembler = ResultAssembler()

    def __iter__(self) -> Iterator[pb.StylizeResponse]:
        return self

    def __next__(self) -> pb.StylizeResponse:
        """Returns the next event as soon as it arrives.

        Raises:
            IntarsiaError: The job failed, was cancelled or ran past its deadline.
        """
        try:
            response = next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        self._assembler.add(response)
        return response

    def result(self) -> Result:
        """Waits for the job's end, passing over the events that were not iterated over, and returns its result.

        Raises:
            IntarsiaError: As `next`; DATA_LOSS when the result did not arrive whole.
        """
        for _ in self:
            pass
        return self._assembler.finish()

    def cancel(self) -> None:
        """Cancels the job, here and on the server; without effect once it has ended."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
