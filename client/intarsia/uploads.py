"""Sending pictures ahead of the request that refers to them."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from intarsia.errors import IntarsiaError
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["CHUNK_BYTES", "MOST_INLINE", "NotSentError", "Sending", "Timer", "fits", "inline_limit", "largest_images"]

CHUNK_BYTES = 2**20 - 2**10
"""With what is around it, a message of 1 MiB at most: every server takes that."""

MOST_INLINE = 4 * 2**20
"""Bytes of pictures in one message; beyond it the largest are uploaded, and a broken connection costs one chunk."""

_AROUND = 2**16
"""Room for what is in a request beside its pictures."""

_ATTEMPTS = 8
"""Failures in a row without a byte that arrived; with the waits between them, about 20 s."""

_UNREAD = "Internal error from Core"
"""What grpc.aio makes of a call that the server ended while it was written to, when it lost the server's status
(grpc/grpc issue 36066)."""

Request = TypeVar("Request", bound=Message)


class NotSentError(Exception):
    """Pictures of a job could not be sent ahead: its request waits, or is given up, as if it had failed itself.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: IntarsiaError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Timer:
    """What is left of a call's time.

    Args:
        timeout: In seconds; None: for ever.
    """

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Returns seconds, 0 or more; None: for ever."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class Sending:
    """One picture on its way to a server: what to send next, and whether to try again.

    Args:
        data: The encoded picture.
        upload_id: The server's name for it; a fresh one when empty.
    """

    def __init__(self, data: bytes, upload_id: str = "") -> None:
        self.upload_id = upload_id or uuid.uuid4().hex
        self.broken = False
        self._data = data
        self._sha256 = hashlib.sha256(data).hexdigest()
        self._received = 0
        self._failures = 0

    def messages(self) -> Iterator[pb.UploadRequest]:
        """Yields what has not arrived, in chunks."""
        begin = self._received
        # Nothing is left if it broke off after the last byte; the server still wants to be asked.
        for offset in range(begin, max(len(self._data), begin + 1), CHUNK_BYTES):
            message = pb.UploadRequest(offset=offset, data=self._data[offset : offset + CHUNK_BYTES])
            if offset == begin:
                message.upload_id, message.sha256 = self.upload_id, self._sha256
                message.size_bytes = len(self._data)
            yield message

    def resume(self, response: pb.GetUploadResponse) -> None:
        """Goes on behind what the server has."""
        if response.received_bytes > self._received:
            self._failures = 0
        self._received = response.received_bytes

    def finish(self, response: pb.UploadResponse) -> pb.Image:
        """Returns the message that refers to the upload.

        Raises:
            IntarsiaError: DATA_LOSS: the server does not have all of it.
        """
        if not response.complete:
            message = f"only {response.received_bytes} of {len(self._data)} bytes of a picture arrived"
            raise IntarsiaError(grpc.StatusCode.DATA_LOSS, message)
        return pb.Image(upload_id=self.upload_id)

    def wait_after(self, error: IntarsiaError, timer: Timer) -> float:
        """Returns the seconds to wait before the next attempt, which first asks the server what it has.

        Raises:
            IntarsiaError: The error, if another attempt would not help or there have been enough of them.
        """
        behind = any(field == "offset" for field, _ in error.violations)
        lost = self.broken and error.code is grpc.StatusCode.NOT_FOUND
        unread = error.code is grpc.StatusCode.INTERNAL and error.message == _UNREAD
        passing = error.code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED} or unread
        self._failures += 1
        wait: float = min(5.0, 0.1 * 2**self._failures)
        left = timer.left()
        if not (behind or lost or passing) or self._failures >= _ATTEMPTS or (left is not None and left <= wait):
            raise error
        if lost:
            self._received = 0
        self.broken = not lost
        return wait


def fits(request: Message) -> bool:
    """Returns whether every server takes the request as it is."""
    return _inline_bytes(request) <= inline_limit()


def inline_limit(max_message_bytes: int = 2**20) -> int:
    """Returns how many may be: for the server with that limit, or for every server."""
    return min(MOST_INLINE, max_message_bytes - _AROUND)


def largest_images(request: Message, limit: int) -> list[list[pb.Image]]:
    """Returns the pictures that have to leave a request, largest first, so that at most `limit` bytes stay.

    Each is a list of all messages that have it: a picture that occurs twice is uploaded once.
    """
    same: dict[bytes, list[pb.Image]] = {}
    for image in _images_in(request):
        same.setdefault(image.data, []).append(image)
    excess = _inline_bytes(request) - limit
    leaving = []
    for data, images in sorted(same.items(), key=lambda item: len(item[0]), reverse=True):
        if excess <= 0:
            break
        leaving.append(images)
        excess -= len(data) * len(images)
    return leaving


def _inline_bytes(request: Message) -> int:
    return sum(len(image.data) for image in _images_in(request))


def _images_in(message: Message) -> Iterator[pb.Image]:
    if isinstance(message, pb.Image):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if field.is_repeated else [value]:
                yield from _images_in(item)
