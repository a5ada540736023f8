"""A job's result, put together from its events."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from PIL import Image

from intarsia.errors import IntarsiaError
from intarsia.files import write_atomically
from intarsia.parameters import enum_names
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Result", "ResultAssembler"]


@dataclass(frozen=True)
class Result:
    """A finished picture and how it came about.

    Attributes:
        image: The encoded picture.
        format: "png", "jpeg" or "webp".
        width: In pixels.
        height: In pixels.
        sha256: Of `image`, in hexadecimal; it was checked.
        job_id: The server's name for the job.
        request_id: The request's UUID.
        queued_time: How long the job waited.
        run_time: How long it ran.
        warnings: What the job had to work around.
        stages: Steps, time, final losses and cached targets of each stage. Empty, as `warnings` is, if the
            job's events were not listened to.
    """

    image: bytes = field(repr=False)
    format: str
    width: int
    height: int
    sha256: str
    job_id: str
    request_id: str
    queued_time: timedelta
    run_time: timedelta
    warnings: tuple[pb.WarningEvent, ...]
    stages: tuple[pb.StageSummary, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the encoded picture as it is; `path` either holds all of it or what it held before.

        Raises:
            OSError: The file cannot be written.
        """
        write_atomically(path, self.image)

    def to_pil(self) -> Image.Image:
        """Returns the decoded picture, RGB, `width` x `height`."""
        with Image.open(io.BytesIO(self.image)) as image:
            return image.convert("RGB")


class ResultAssembler:
    """Takes a job's events in order and keeps what the result is made of.

    A result comes in one message, or as a header and numbered chunks. What was missed because of a broken connection is
    put in by `fill_in`.
    """

    def __init__(self) -> None:
        self._begin(pb.AcceptedEvent())

    def _begin(self, accepted: pb.AcceptedEvent) -> None:
        self._job_id = accepted.job_id
        self._request_id = accepted.request_id
        self._header: pb.ResultEvent | None = None
        self._chunks: list[bytes] = []
        self._received = 0
        self._out_of_order: int | None = None
        self._warnings: list[pb.WarningEvent] = []
        self._completed: pb.CompletedEvent | None = None

    def add(self, response: pb.StylizeResponse) -> None:
        """Takes the next event."""
        match response.WhichOneof("event"):
            case "accepted":
                # Not only once: a server that has come back without its data begins the job anew.
                self._begin(response.accepted)
            case "warning":
                self._warnings.append(response.warning)
            case "result":
                self._set_header(response.result)
            case "result_chunk":
                self._add_chunk(response.result_chunk)
            case "completed":
                self._completed = response.completed

    @property
    def complete(self) -> bool:
        """Whether all parts are there."""
        chunks = None if self._header is None else self._header.chunk_count
        return self._completed is not None and self._out_of_order is None and len(self._chunks) == chunks

    def fill_in(self, job: pb.Job, header: pb.ResultEvent, image: bytes) -> None:
        """Takes what the server has kept in place of what did not arrive.

        Args:
            job: A job that succeeded.
            header: As in GetResultResponse.
            image: The whole encoded picture.
        """
        self._job_id, self._request_id = job.job_id, job.request_id
        whole = pb.ResultEvent(image=pb.Image(data=image))
        whole.MergeFrom(header)
        self._set_header(whole)
        if self._completed is None:
            created, started, ended = (time.ToDatetime() for time in (job.create_time, job.start_time, job.end_time))
            self._completed = pb.CompletedEvent()
            self._completed.queued_time.FromTimedelta(started - created)
            self._completed.run_time.FromTimedelta(ended - started)

    def finish(self) -> Result:
        """Returns the result once the stream has ended.

        Raises:
            IntarsiaError: DATA_LOSS: the stream ended too early, or the picture is not the one that was sent.
        """
        header, completed = self._header, self._completed
        if self._out_of_order is not None:
            raise _lost(f"chunk {self._out_of_order} of the result came out of order")
        if header is None or completed is None:
            raise _lost("the stream ended before the job was completed")
        if len(self._chunks) != header.chunk_count:
            raise _lost(f"{len(self._chunks)} of {header.chunk_count} chunks of the result arrived")
        image = b"".join(self._chunks) if header.chunk_count else header.image.data
        sha256 = hashlib.sha256(image).hexdigest()
        if len(image) != header.size_bytes or sha256 != header.sha256.lower():
            raise _lost("the result's size or SHA-256 is not what the server announced")
        formats = {number: name for name, number in enum_names(pb.ImageFormat.DESCRIPTOR).items()}
        return Result(
            image=image,
            format=formats.get(header.format, "png"),
            width=header.width,
            height=header.height,
            sha256=sha256,
            job_id=self._job_id,
            request_id=self._request_id,
            queued_time=completed.queued_time.ToTimedelta(),
            run_time=completed.run_time.ToTimedelta(),
            warnings=tuple(self._warnings),
            stages=tuple(completed.stages),
        )

    def _set_header(self, header: pb.ResultEvent) -> None:
        self._header = header
        self._chunks.clear()
        self._received = 0
        self._out_of_order = None

    def _add_chunk(self, chunk: pb.ResultChunkEvent) -> None:
        if self._header is None or chunk.index != len(self._chunks) or chunk.offset != self._received:
            self._out_of_order = chunk.index if self._out_of_order is None else self._out_of_order
            return
        self._chunks.append(chunk.data)
        self._received += len(chunk.data)


def _lost(message: str) -> IntarsiaError:
    return IntarsiaError(grpc.StatusCode.DATA_LOSS, message)
