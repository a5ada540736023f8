"""Uploads on the wire: taking them in, and putting them in the place of the ids that refer to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from google.protobuf.message import Message
from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.jobs.uploads import UploadNotFoundError, UploadStore
from intarsia_server.rpc.callers import Caller
from intarsia_server.rpc.requests import images_of, refuse_unknown_fields

SILENCE_SECONDS = 30.0
"""After which a call that sends nothing is ended: its client may be gone, and nobody else may write the upload."""

FILLED = 2
"""Requests whose uploads are in memory at the same time before they are queued; a small message may refer to a lot."""


class Uploads:
    """Serves the API's calls for uploads.

    Args:
        store: where they are.
        max_request_bytes: how much of them one request may refer to.
    """

    def __init__(self, store: UploadStore, *, max_request_bytes: int) -> None:
        self._store = store
        self._max_request_bytes = max_request_bytes
        self._filled = asyncio.Semaphore(FILLED)

    async def upload(self, messages: AsyncIterator[pb.UploadRequest], caller: Caller) -> pb.UploadResponse:
        """Takes what the call brings, until the upload is complete or the call has no more.

        Raises:
            InvalidInputError: with the field's name.
            UploadBusyError, UploadsFullError: as `UploadStore` says.
            TimeoutError: nothing came for `SILENCE_SECONDS`.
        """
        first = message = await _next(messages)
        if first is None:
            raise InvalidInputError("upload_id", "is required")
        refuse_unknown_fields(first)
        async with self._store.writing(
            first.upload_id, owner=caller.owner, client=caller.client, size=first.size_bytes, sha256=first.sha256
        ) as upload:
            while message is not None and not upload.complete:
                refuse_unknown_fields(message)
                if message.upload_id not in {"", upload.upload_id}:
                    raise InvalidInputError("upload_id", "is another one than in the call's first message")
                await self._store.append(upload, message.offset, message.data)
                if not upload.complete:
                    message = await _next(messages)
            return pb.UploadResponse(
                upload_id=upload.upload_id, received_bytes=upload.received, complete=upload.complete
            )

    def get_upload(self, request: pb.GetUploadRequest, caller: Caller) -> pb.GetUploadResponse:
        """How much has arrived.

        Raises:
            InvalidInputError: with the field's name.
            UploadNotFoundError: as `UploadStore` says.
        """
        refuse_unknown_fields(request)
        upload = self._store.find(request.upload_id, caller.owner)
        return pb.GetUploadResponse(
            upload_id=upload.upload_id,
            received_bytes=upload.received,
            size_bytes=upload.size,
            complete=upload.complete,
        )

    @asynccontextmanager
    async def filled(self, request: Message, caller: Caller) -> AsyncIterator[None]:
        """Within the block every picture of the request has its data, as if it had come so.

        Raises:
            InvalidInputError: a picture has both data and an upload, its upload cannot be had, or all uploads are more
                than a request may refer to; with the field's path.
        """
        references = [(f"{path}.upload_id", image) for path, image in images_of(request) if image.upload_id]
        if not references:
            yield
            return
        self._check(references, caller)
        async with self._filled:
            ids = [image.upload_id for _, image in references]
            try:
                for field, image in references:
                    with _naming(field):
                        image.data = await self._store.read(image.upload_id, caller.owner)
                    image.ClearField("upload_id")
                yield
            finally:
                # The message lives as long as the call: it need not hold the pictures all that time.
                for (_, image), upload_id in zip(references, ids, strict=True):
                    image.upload_id = upload_id
                    image.ClearField("data")

    def _check(self, references: list[tuple[str, pb.Image]], caller: Caller) -> None:
        """What can be refused before anything is read."""
        total = 0
        for field, image in references:
            if image.data:
                raise InvalidInputError(field, "is given, and data as well")
            with _naming(field):
                total += self._store.find(image.upload_id, caller.owner).size
            if total > self._max_request_bytes:
                most = self._max_request_bytes
                raise InvalidInputError(field, f"makes the request's uploads more than {most} bytes together")


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """An upload that cannot be had is that field's fault.

    Raises:
        InvalidInputError: it cannot.
    """
    try:
        yield
    except UploadNotFoundError as error:
        raise InvalidInputError(field, str(error)) from error


async def _next(messages: AsyncIterator[pb.UploadRequest]) -> pb.UploadRequest | None:
    """The next message; None when there is none.

    Raises:
        TimeoutError: see `SILENCE_SECONDS`.
    """
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(messages, None)
    except TimeoutError as error:
        raise TimeoutError(f"nothing was sent for {SILENCE_SECONDS:g} s; the upload can be taken up again") from error
