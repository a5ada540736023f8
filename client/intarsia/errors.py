"""What can go wrong, in this client's own words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

__all__ = ["IntarsiaError", "RequestError", "from_rpc_error"]

_DETAILS_KEY = "grpc-status-details-bin"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"


class RequestError(ValueError):
    """A request that cannot be built from what was given; nothing was sent."""


class IntarsiaError(RuntimeError):
    """A call that did not succeed.

    Attributes:
        code: The gRPC status.
        message: What the server, or this client, said about it.
        violations: (field, description) of each bad field, in the spelling of the proto:
            ("segments[1].style.data", "not an image").
        retry_after_seconds: How long to wait before the same call may succeed; None when the server did not say.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        violations: Sequence[tuple[str, str]] = (),
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.violations = tuple(violations)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        fields = "; ".join(f"{field}: {description}" for field, description in self.violations)
        return f"{self.code.name}: {self.message}" + (f" [{fields}]" if fields else "")


def from_rpc_error(error: grpc.RpcError) -> IntarsiaError:
    """Decodes a failed call, with the google.rpc details (BadRequest, RetryInfo) of its trailing metadata.

    grpcio-status does the same, but would be one more dependency for these few lines.
    """
    violations: list[tuple[str, str]] = []
    retry_after: float | None = None
    metadata = tuple(error.trailing_metadata() or ())
    for detail in _details(metadata):
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad_request = error_details_pb2.BadRequest()
            detail.Unpack(bad_request)
            violations += [(violation.field, violation.description) for violation in bad_request.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry_info = error_details_pb2.RetryInfo()
            detail.Unpack(retry_info)
            retry_after = retry_info.retry_delay.ToTimedelta().total_seconds()
    if retry_after is None:
        retry_after = _pushback(metadata)
    return IntarsiaError(error.code(), error.details() or "no message", violations, retry_after)


def _pushback(metadata: Iterable[Any]) -> float | None:
    """Seconds from the header that gRPC's own retries heed; anything but a count of milliseconds says not to retry."""
    text = next((value for key, value in metadata if key == _PUSHBACK_KEY), "")
    return int(text) / 1000 if isinstance(text, str) and text.isdecimal() else None


def _details(metadata: Iterable[Any]) -> list[Any]:
    for key, value in metadata:
        if key == _DETAILS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:  # a proxy's own details; the status itself still stands
                return []
    return []
