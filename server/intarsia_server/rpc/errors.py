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
from intarsia_server.jobs.manager import DrainingError, DuplicateRequestError, JobCancelledError

log = logging.getLogger(__name__)

MAX_TEXT = 1000
"""Bytes of a message or of a field violation's parts. Outside printable ASCII, each may travel as three."""

_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (WeightsUnavailableError, grpc.StatusCode.FAILED_PRECONDITION),
    (QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (OutOfMemoryError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DuplicateRequestError, grpc.StatusCode.ALREADY_EXISTS),
    (DrainingError, grpc.StatusCode.UNAVAILABLE),
    (WorkerDiedError, grpc.StatusCode.UNAVAILABLE),
    (JobCancelledError, grpc.StatusCode.CANCELLED),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)


async def abort(context: grpc.aio.ServicerContext[Message, Message], error: Exception) -> NoReturn:
    """Ends the call with the status that the error stands for; one that is not expected is logged and not shown."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    if code is grpc.StatusCode.INTERNAL:
        log.error("call failed", exc_info=error)
    message = "internal error" if code is grpc.StatusCode.INTERNAL else _short(str(error))
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=_details(error))
    await context.abort(code, message, (("grpc-status-details-bin", status.SerializeToString()), *_pushback(error)))


def _pushback(error: Exception) -> tuple[tuple[str, str], ...]:
    """What gRPC's own clients go by when their service config has them retry."""
    if not isinstance(error, QueueFullError):
        return ()
    return (("grpc-retry-pushback-ms", str(math.ceil(error.retry_seconds * 1e3))),)


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
        case QueueFullError(retry_seconds=seconds):
            delay = duration_pb2.Duration()
            delay.FromNanoseconds(int(seconds * 1e9))
            detail = error_details_pb2.RetryInfo(retry_delay=delay)
        case _:
            return []
    packed = any_pb2.Any()
    packed.Pack(detail)
    return [packed]
