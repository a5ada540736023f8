"""A job's result, fetched by the job's id and taken up again where a connection broke. No I/O."""

from __future__ import annotations

import grpc

from intarsia.errors import IntarsiaError
from intarsia.jobs import job_error
from intarsia.patience import Patience
from intarsia.result import ResultAssembler
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Download"]


class Download:
    """The state of one download: whoever does the calls asks for `job`, then for `request`, until a stream has ended.

    Args:
        job_id: Of a job that succeeded.
        patience: When to try again, and when to give up.

    Attributes:
        job: As the server answered; None: not yet.
        patience: As given.
    """

    def __init__(self, job_id: str, patience: Patience) -> None:
        self.job: pb.Job | None = None
        self.patience = patience
        self._job_id = job_id
        self._header: pb.ResultEvent | None = None
        self._data = bytearray()

    def found(self, job: pb.Job) -> None:
        """Takes the answer to GetJob.

        Raises:
            IntarsiaError: The job failed or was cancelled: its own status.
        """
        error = job_error(job)
        if error is not None:
            raise error
        self.job = job

    @property
    def request(self) -> pb.GetResultRequest:
        """Asks for what has not arrived yet."""
        return pb.GetResultRequest(job_id=self._job_id, offset=len(self._data))

    def add(self, response: pb.GetResultResponse) -> None:
        """Takes the next message.

        Raises:
            IntarsiaError: DATA_LOSS: it is not the next one.
        """
        self.patience.sign_of_life(progress=bool(response.data))
        if response.HasField("result"):
            self._header = response.result
        if response.data:
            if response.offset != len(self._data):
                message = f"the result's data came out of order, at {response.offset} for {len(self._data)}"
                raise IntarsiaError(grpc.StatusCode.DATA_LOSS, message)
            self._data += response.data

    def failed(self, error: IntarsiaError) -> float:
        """Takes the failure of a call and returns the seconds to wait before the next one.

        Raises:
            IntarsiaError: The last word.
        """
        if error.code is not grpc.StatusCode.UNAVAILABLE:
            raise error
        return self.patience.delay(error)

    def fill_in(self, assembler: ResultAssembler) -> None:
        """Gives the result to what checks it and makes it a `Result`.

        Raises:
            IntarsiaError: DATA_LOSS: the stream ended without a header.
        """
        if self.job is None or self._header is None:
            raise IntarsiaError(grpc.StatusCode.DATA_LOSS, "the result came without its header")
        assembler.fill_in(self.job, self._header, bytes(self._data))
