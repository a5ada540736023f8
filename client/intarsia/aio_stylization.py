"""A job as the asyncio client sees it: the blocking one's twin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from grpc import aio

from intarsia.attachment import Attachment, Call, stopped
from intarsia.download import Download
from intarsia.errors import IntarsiaError, from_rpc_error
from intarsia.request import with_request_id
from intarsia.result import Result, ResultAssembler
from intarsia.uploads import NotSentError, Timer, fits
from intarsia.v1 import style_transfer_pb2 as pb

if TYPE_CHECKING:
    from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceAsyncStub

    _Stream = (
        aio.UnaryStreamCall[pb.StylizeRequest, pb.StylizeResponse]
        | aio.UnaryStreamCall[pb.WatchJobRequest, pb.WatchJobResponse]
    )

__all__ = ["AsyncStylization", "fetch_result"]

_logger = logging.getLogger("intarsia")


class AsyncStylization:
    """A running job: iterate over its events, or ask for its result.

    When the connection breaks or the server dies, the iteration attaches to the job again by itself and goes on with
    the first event that it has not had; a SnapshotEvent stands for those that are not kept any more.

    Leaving an `async with` block cancels a job that has not ended, and so does cancelling the task that waits for it,
    unless the job is detached or was only watched.

    Attributes:
        request: What was asked for, with its pictures; None if the job is only watched.
    """

    def __init__(
        self,
        stub: StyleTransferServiceAsyncStub,
        attachment: Attachment,
        request: pb.StylizeRequest | None = None,
        as_it_travels: Callable[[pb.StylizeRequest, Timer], Awaitable[pb.StylizeRequest]] | None = None,
    ) -> None:
        self.request = request
        self._stub = stub
        self._as_it_travels = as_it_travels
        self._attachment = attachment
        self._detached = request is None or request.on_disconnect == pb.ON_DISCONNECT_DETACH
        self._assembler = ResultAssembler()
        self._failure: IntarsiaError | None = None
        self._ended = False
        self._stopped = asyncio.Event()
        self._cancel: asyncio.Task[None] | None = None
        self._stream: _Stream | None = None
        if request is None or fits(request):
            self._call_stream(request)

    @property
    def job_id(self) -> str:
        """The server's name for the job; empty until its first event has arrived."""
        return self._attachment.job_id

    async def send(self) -> None:
        """Waits until the request is on its way, its large pictures before it; without effect if it is.

        Raises:
            IntarsiaError: As `anext`.
        """
        while self._stream is None and not self._over():
            try:
                await self._open()
            except NotSentError as error:
                await self._recover(error)

    def __aiter__(self) -> AsyncIterator[pb.StylizeResponse]:
        return self

    async def __anext__(self) -> pb.StylizeResponse:
        """Returns the next event as soon as it arrives.

        Raises:
            IntarsiaError: The job failed, was cancelled or ran past its deadline, or the server could not be reached.
        """
        if self._failure is not None:
            raise self._failure
        try:
            while not self._ended:
                try:
                    response = await self._receive()
                except (grpc.RpcError, IntarsiaError, NotSentError) as error:
                    await self._recover(error)
                else:
                    if response is None:
                        self._ended = True
                    elif self._attachment.take(response):
                        self._assembler.add(response)
                        return response
        except asyncio.CancelledError:
            self._leave()
            raise
        raise StopAsyncIteration

    async def result(self) -> Result:
        """Waits for the job's end, passing over the events that were not iterated over, and returns its result.

        Raises:
            IntarsiaError: As `anext`; DATA_LOSS when the result did not arrive whole.
        """
        async for _ in self:
            pass
        if self._attachment.partial and not self._assembler.complete:
            download = Download(self.job_id, self._attachment.patience)
            await fetch_result(self._stub, download)
            download.fill_in(self._assembler)
        return self._assembler.finish()

    def cancel(self) -> None:
        """Cancels the job, here and on the server; without effect once it has ended.

        A server that cannot be reached is waited for, up to 5 s, by a task of its own, which `close` waits for; if it
        hears nothing of the cancel, a warning is logged.
        """
        if self._over():
            return
        self._stop()
        if self.job_id:
            self._cancel = asyncio.create_task(self._cancel_by_name())

    async def close(self) -> None:
        """Stops listening; cancels a job that has not ended, unless it is detached or was only watched."""
        self._leave()
        if self._cancel is not None:
            await self._cancel

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _over(self) -> bool:
        return self._ended or self._failure is not None or self._stopped.is_set()

    def _leave(self) -> None:
        if self._over():
            return
        if self._detached:
            self._stop()
        else:
            self.cancel()

    async def _open(self) -> _Stream:
        attachment = self._attachment
        if attachment.next is Call.GET_JOB:
            question = pb.GetJobRequest(job_id=attachment.job_id)
            fresh = attachment.found((await self._stub.GetJob(question, timeout=attachment.timeout)).job)
            if fresh and self.request is not None:
                self.request = with_request_id(self.request, fresh=True)
        return self._call_stream(await self._sent() if attachment.next is Call.STYLIZE else None)

    async def _sent(self) -> pb.StylizeRequest:
        """Returns the request once its large pictures are on the server: they may be lost there by the next time.

        Raises:
            NotSentError: They are not.
        """
        request = self.request or pb.StylizeRequest()
        try:
            return (
                await self._as_it_travels(request, Timer(self._attachment.timeout)) if self._as_it_travels else request
            )
        except IntarsiaError as error:
            raise NotSentError(error) from error

    def _call_stream(self, sent: pb.StylizeRequest | None) -> _Stream:
        attachment = self._attachment
        stream: _Stream
        if attachment.next is Call.WATCH_JOB:
            watch = pb.WatchJobRequest(job_id=attachment.job_id, after_sequence=attachment.sequence)
            stream = self._stub.WatchJob(watch, timeout=attachment.timeout)
        else:
            stream = self._stub.Stylize(sent or pb.StylizeRequest(), timeout=attachment.timeout)
        self._stream = stream
        if self._stopped.is_set():  # while the server was asked how the job stands
            stream.cancel()
        return stream

    async def _receive(self) -> pb.StylizeResponse | None:
        """Returns the next event; None: the stream has ended.

        Raises:
            grpc.RpcError: A call failed.
            IntarsiaError: As of `Attachment.found`; CANCELLED after `cancel`.
        """
        try:
            message = await (self._stream or await self._open()).read()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # gRPC raises this for a cancelled call as well, which must not look like a cancelled task.
            raise stopped() from error
        if isinstance(message, pb.WatchJobResponse):
            return message.event
        return message if isinstance(message, pb.StylizeResponse) else None

    async def _recover(self, error: grpc.RpcError | IntarsiaError | NotSentError) -> None:
        """Waits until the next call is due.

        Raises:
            IntarsiaError: There is none.
        """
        self._stream = None
        try:
            if isinstance(error, IntarsiaError):
                raise error
            failure = error.reason if isinstance(error, NotSentError) else from_rpc_error(error)
            delay = 0.0 if self._stopped.is_set() else self._attachment.failed(failure)
            await self._wait(delay)
        except IntarsiaError as last:
            self._failure = last
            late = last.code is grpc.StatusCode.DEADLINE_EXCEEDED
            if late and self.request is not None and self._attachment.lasting and self.job_id:
                await self._cancel_by_name()  # the call's deadline alone does nothing to it
            raise last from error

    async def _wait(self, delay: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._stopped.wait()
        if self._stopped.is_set():
            raise stopped()

    def _stop(self) -> None:
        self._stopped.set()
        if self._stream is not None:
            self._stream.cancel()

    async def _cancel_by_name(self) -> None:
        question = pb.CancelJobRequest(job_id=self.job_id)
        try:
            await self._stub.CancelJob(question, timeout=self._attachment.cancel_seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if self._attachment.lasting:
                _logger.warning("job %s could not be cancelled (%s): it may go on", self.job_id, from_rpc_error(error))


async def fetch_result(stub: StyleTransferServiceAsyncStub, download: Download) -> None:
    """Carries a download to its end.

    Raises:
        IntarsiaError: The job has no result, or the server could not be reached.
    """
    while True:
        try:
            if download.job is None:
                question = pb.GetJobRequest(job_id=download.request.job_id)
                download.found((await stub.GetJob(question, timeout=download.patience.remaining())).job)
            async for response in stub.GetResult(download.request, timeout=download.patience.remaining()):
                download.add(response)
        except grpc.RpcError as error:
            await asyncio.sleep(download.failed(from_rpc_error(error)))
        else:
            return
