"""What each error means to a client: gRPC status codes and google.rpc details."""

from __future__ import annotations

import logging
import math
from typing import NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from intarsia_server.engine.errors import InvalidInputError, WeightsUnavailableError
from intarsia_server.executors.base import OutOfMemoryError, WorkerDiedError
from intarsia_server.jobs.admission import DeadlineError, QueueFullError
from intarsia_server.jobs.archive import EndedJobError, ResultGoneError
from intarsia_server.jobs.errors import (
    DrainingError,
    DuplicateRequestError,
    InputLostError,
    JobCancelledError,
    ServerDiedError,
    UnknownJobError,
)
from intarsia_server.jobs.storage import StorageError, StorageFullError
from intarsia_server.jobs.uploads import UploadBusyError, UploadNotFoundError, UploadsFullError

log = logging.getLogger(__name__)

MAX_TEXT = 1000
"""Bytes of a message or of a field violation's parts. Outside printable ASCII, each may travel as three."""


class NoResultError(RuntimeError):
    """The job has no picture: it has not ended yet, or makes none."""


_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (WeightsUnavailableError, grpc.StatusCode.FAILED_PRECONDITION),
    (QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OutOfMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UploadsFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UploadBusyError, grpc.StatusCode.ABORTED),
    (UploadNotFoundError, grpc.StatusCode.NOT_FOUND),
    (DuplicateRequestError, grpc.StatusCode.ALREADY_EXISTS),
    (UnknownJobError, grpc.StatusCode.NOT_FOUND),
    (ResultGoneError, grpc.StatusCode.NOT_FOUND),
    (NoResultError, grpc.StatusCode.FAILED_PRECONDITION),
    (InputLostError, grpc.StatusCode.DATA_LOSS),
    (StorageError, grpc.StatusCode.UNAVAILABLE),
    (ServerDiedError, grpc.StatusCode.UNAVAILABLE),
    (DrainingError, grpc.StatusCode.UNAVAILABLE),
    (WorkerDiedError, grpc.StatusCode.UNAVAILABLE),
    (JobCancelledError, grpc.StatusCode.CANCELLED),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)


def code_of(error: Exception) -> grpc.StatusCode:
    """The status that the error stands for; INTERNAL when nobody expects it."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


async def abort(context: grpc.aio.ServicerContext[Message, Message], error: Exception) -> NoReturn:
    """Ends the call with the status that the error stands for."""
    status = to_status(error)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code, status.message, (details, *_pushback(error)))


def to_status(error: Exception) -> status_pb2.Status:
    """What an error is to a client; one that is not expected is logged and not shown."""
    if isinstance(error, EndedJobError):
        return status_pb2.Status.FromString(error.status)
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        log.error("call failed", exc_info=error)
    message = "internal error" if code is grpc.StatusCode.INTERNAL else _short(str(error))
    return status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=_details(error))


def _pushback(error: Exception) -> tuple[tuple[str, str], ...]:
    """What gRPC's own clients go by when their service config has them retry."""
    match error:
        case QueueFullError(retry_seconds=seconds) | UploadsFullError(retry_seconds=seconds):
            return (("grpc-retry-pushback-ms", str(math.ceil(seconds * 1e3))),)
    return ()


def _short(text: str) -> str:
    """Statuses travel as metadata, whose size is limited: past it, the client would see another error instead."""
    encoded = text.encode()
    return text if len(encoded) <= MAX_TEXT else encoded[: MAX_TEXT - 3].decode(errors="ignore") + "..."


def _details(error: Exception) -> list[any_pb2.Any]:
    detail: Message
    match error:
        case InvalidInputError(field=field, reason=reason):
            violation = error_details_pb2.BadRequest.FieldViolation(field=_short(field), description=_short(reason))
            detail = error_details_pb2.BadRequest(field_violations=[violation])
        case QueueFullError(retry_seconds=seconds) | UploadsFullError(retry_seconds=seconds):
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(seconds * 1e9))
            detail = error_details_pb2.RetryInfo(retry_delay=delay)
        case _:
            return []
    packed = any_pb2.Any()
    packed.Pack(detail)
    return [packed]
