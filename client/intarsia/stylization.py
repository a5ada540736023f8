"""A job as the blocking client sees it: its events and its result, over broken connections."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

import grpc

from intarsia.attachment import Attachment, Call, stopped
from intarsia.download import Download
from intarsia.errors import IntarsiaError, from_rpc_error
from intarsia.request import with_request_id
from intarsia.result import Result, ResultAssembler
from intarsia.uploads import NotSentError, Timer
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

__all__ = ["Stylization", "fetch_result"]

_logger = logging.getLogger("intarsia")


class _Stream(Protocol):
    def __next__(self) -> pb.StylizeResponse | pb.WatchJobResponse: ...

    def cancel(self) -> bool: ...


class Stylization:
    """A running job: iterate over its events, or ask for its result.

    When the connection breaks or the server dies, the iteration attaches to the job again by itself and goes on with
    the first event that it has not had; a SnapshotEvent stands for those that are not kept any more.

    Leaving a `with` block cancels a job that has not ended, unless the job is detached or was only watched.

    Attributes:
        request: What was asked for, with its pictures; None if the job is only watched.
    """

    def __init__(
        self,
        stub: StyleTransferServiceStub,
        attachment: Attachment,
        request: pb.StylizeRequest | None = None,
        as_it_travels: Callable[[pb.StylizeRequest, Timer], pb.StylizeRequest] = lambda request, _: request,
    ) -> None:
        self.request = request
        self._stub = stub
        self._as_it_travels = as_it_travels
        self._attachment = attachment
        self._detached = request is None or request.on_disconnect == pb.ON_DISCONNECT_DETACH
        self._assembler = ResultAssembler()
        self._failure: IntarsiaError | None = None
        self._ended = False
        self._stopped = threading.Event()
        self._stream: _Stream | None = None
        while self._stream is None:
            try:
                self._open()
            except NotSentError as error:
                self._recover(error)

    @property
    def job_id(self) -> str:
        """The server's name for the job; empty until its first event has arrived."""
        return self._attachment.job_id

    def __iter__(self) -> Iterator[pb.StylizeResponse]:
        return self

    def __next__(self) -> pb.StylizeResponse:
        """Returns the next event as soon as it arrives.

        Raises:
            IntarsiaError: The job failed, was cancelled or ran past its deadline, or the server could not be reached.
        """
        if self._failure is not None:
            raise self._failure
        while not self._ended:
            try:
                response = self._receive()
            except StopIteration:
                self._ended = True
            except (grpc.RpcError, IntarsiaError, NotSentError) as error:
                self._recover(error)
            else:
                if self._attachment.take(response):
                    self._assembler.add(response)
                    return response
        raise StopIteration

    def result(self) -> Result:
        """Waits for the job's end, passing over the events that were not iterated over, and returns its result.

        Raises:
            IntarsiaError: As `next`; DATA_LOSS when the result did not arrive whole.
        """
        for _ in self:
            pass
        if self._attachment.partial and not self._assembler.complete:
            download = Download(self.job_id, self._attachment.patience)
            fetch_result(self._stub, download)
            download.fill_in(self._assembler)
        return self._assembler.finish()

    def cancel(self) -> None:
        """Cancels the job, here and on the server; without effect once it has ended.

        A server that cannot be reached is waited for, up to 5 s; if it hears nothing of the cancel, a warning is
        logged.
        """
        if self._over():
            return
        self._stop()
        if self.job_id:
            self._cancel_by_name()

    def close(self) -> None:
        """Stops listening; cancels a job that has not ended, unless it is detached or was only watched."""
        if self._over():
            return
        if self._detached:
            self._stop()
        else:
            self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _over(self) -> bool:
        return self._ended or self._failure is not None or self._stopped.is_set()

    def _open(self) -> _Stream:
        attachment = self._attachment
        if attachment.next is Call.GET_JOB:
            question = pb.GetJobRequest(job_id=attachment.job_id)
            fresh = attachment.found(self._stub.GetJob(question, timeout=attachment.timeout).job)
            if fresh and self.request is not None:
                self.request = with_request_id(self.request, fresh=True)
        stream: _Stream
        if attachment.next is Call.WATCH_JOB:
            watch = pb.WatchJobRequest(job_id=attachment.job_id, after_sequence=attachment.sequence)
            stream = self._stub.WatchJob(watch, timeout=attachment.timeout)
        else:
            sent = self._sent()
            stream = self._stub.Stylize(sent, timeout=attachment.timeout)
        self._stream = stream
        if self._stopped.is_set():  # by another thread, which has not seen this stream
            stream.cancel()
        return stream

    def _sent(self) -> pb.StylizeRequest:
        """Returns the request once its large pictures are on the server: they may be lost there by the next time.

        Raises:
            NotSentError: They are not.
        """
        try:
            return self._as_it_travels(self.request or pb.StylizeRequest(), Timer(self._attachment.timeout))
        except IntarsiaError as error:
            raise NotSentError(error) from error

    def _receive(self) -> pb.StylizeResponse:
        message = next(self._stream or self._open())
        return message.event if isinstance(message, pb.WatchJobResponse) else message

    def _recover(self, error: grpc.RpcError | IntarsiaError | NotSentError) -> None:
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
            if self._stopped.wait(delay):
                raise stopped()
        except IntarsiaError as last:
            self._failure = last
            late = last.code is grpc.StatusCode.DEADLINE_EXCEEDED
            if late and self.request is not None and self._attachment.lasting and self.job_id:
                self._cancel_by_name()  # the call's deadline alone does nothing to it
            raise last from error

    def _stop(self) -> None:
        self._stopped.set()
        if self._stream is not None:
            self._stream.cancel()

    def _cancel_by_name(self) -> None:
        question = pb.CancelJobRequest(job_id=self.job_id)
        try:
            self._stub.CancelJob(question, timeout=self._attachment.cancel_seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if self._attachment.lasting:
                _logger.warning("job %s could not be cancelled (%s): it may go on", self.job_id, from_rpc_error(error))


def fetch_result(stub: StyleTransferServiceStub, download: Download) -> None:
    """Carries a download to its end.

    Raises:
        IntarsiaError: The job has no result, or the server could not be reached.
    """
    while True:
        try:
            if download.job is None:
                question = pb.GetJobRequest(job_id=download.request.job_id)
                download.found(stub.GetJob(question, timeout=download.patience.remaining()).job)
            for response in stub.GetResult(download.request, timeout=download.patience.remaining()):
                download.add(response)
        except grpc.RpcError as error:
            time.sleep(download.failed(from_rpc_error(error)))
        else:
            return
