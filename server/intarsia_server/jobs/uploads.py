"""Pictures that arrive in pieces, and may be taken up again where they broke off."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.jobs.files import FileStore
from intarsia_server.jobs.storage import StorageError, StorageFullError, storage_errors
from intarsia_server.jobs.upload_folder import Upload, UploadFolder

log = logging.getLogger(__name__)

_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile("[0-9a-fA-F]{64}")


class UploadBusyError(RuntimeError):
    """Another call is writing the same upload."""


class UploadNotFoundError(RuntimeError):
    """The caller has no upload of that id, or has it no more."""


class UploadsFullError(RuntimeError):
    """No room for the upload; try again after `retry_seconds`."""

    def __init__(self, message: str, retry_seconds: float = 30.0) -> None:
        super().__init__(message)
        self.retry_seconds = retry_seconds


@dataclass(frozen=True, kw_only=True)
class UploadLimits:
    """What uploads may take.

    Attributes:
        upload_bytes: of one.
        client_bytes: of all that are kept for one client.
        total_bytes: of all that are kept.
        client_unfinished: how many of one client may be incomplete at a time.
        total_unfinished: how many in all.
        seconds: how long one is kept that nobody uses.
    """

    upload_bytes: int
    client_bytes: int
    total_bytes: int
    client_unfinished: int
    total_unfinished: int
    seconds: float


class UploadStore:
    """Uploads, under one folder; they outlive the process.

    An upload has a record, and its bytes so far; once complete its bytes are a file of `files`, which uploads of the
    same picture share. All of it is used from one event loop; whatever touches the disk runs in threads.

    Args:
        folder: made if it is not there; what an earlier process left in it is taken over.
        files: for complete uploads, on the folder's file system. Nobody else may remove from it.
        limits: see there.
        clock: seconds since the epoch.
    """

    def __init__(
        self, folder: Path, files: FileStore, limits: UploadLimits, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = UploadFolder(folder)
        self._files = files
        self._limits = limits
        self._clock = clock
        # Adding and removing files take turns: one may be about to go that another upload has just come to share.
        self._disk = asyncio.Lock()
        self._uploads = {upload.key: upload for upload in self._folder.left_behind(files)}

    def find(self, upload_id: str, owner: str) -> Upload:
        """An upload, which does not count as use.

        Raises:
            UploadNotFoundError: see there.
        """
        upload = self._uploads.get((owner, upload_id))
        if upload is None or self._expired(upload):
            raise UploadNotFoundError("there is no such upload; it may have been dropped")
        return upload

    @asynccontextmanager
    async def writing(
        self, upload_id: str, *, owner: str, client: str, size: int, sha256: str
    ) -> AsyncIterator[Upload]:
        """Begins an upload or takes it up again; nobody else writes it meanwhile.

        It is complete at once if its owner has another one of the same bytes.

        Raises:
            InvalidInputError: with the field's name; also if an upload of that id was begun with another size or hash.
            UploadBusyError, UploadsFullError: see there.
        """
        _check(upload_id, size, sha256, self._limits)
        await self.drop_unused()
        # Nothing is awaited from here to where it is marked: two calls must not both find it free.
        known = self._uploads.get((owner, upload_id))
        upload = known or Upload(owner, upload_id, client, size, sha256.lower())
        _check_same(upload, size, sha256)
        if upload.writing and not upload.complete:
            raise UploadBusyError("another call is writing this upload")
        unneeded = self._reserve(upload) if known is None else []
        upload.writing = True
        try:
            if known is None:
                await _to_its_end(self._begin(upload, unneeded))
            yield upload
        finally:
            upload.writing = False

    async def append(self, upload: Upload, offset: int, data: bytes) -> None:
        """Takes the next bytes of an upload that is being written; with the last of them it is complete.

        Raises:
            InvalidInputError: they are not the next or go past the end; or they are the last and the hash is wrong, and
                the upload is dropped.
            UploadsFullError: the disk is full; the upload is dropped.
        """
        if offset != upload.received:
            raise InvalidInputError("offset", f"is {offset}, but {upload.received} bytes have arrived")
        if len(data) > upload.size - offset:
            raise InvalidInputError("data", f"goes past size_bytes, {upload.size}")
        upload.used_at = self._clock()
        await _to_its_end(self._append(upload, data))

    async def read(self, upload_id: str, owner: str) -> bytes:
        """The bytes of a complete upload, which counts as use.

        Raises:
            UploadNotFoundError: there is none, or it is not complete.
        """
        upload = self.find(upload_id, owner)
        if not upload.complete:
            message = f"the upload is not complete: {upload.received} of {upload.size} bytes have arrived"
            raise UploadNotFoundError(message)
        upload.used_at, upload.referred = self._clock(), True
        try:
            data = await asyncio.to_thread(self._files.get, upload.sha256)
        except KeyError as error:
            log.error("an upload's file is missing or damaged")  # noqa: TRY400 - no defect, no traceback
            # All that share the file: else the same picture would again be complete at once.
            for other in [
                other for other in self._uploads.values() if other.complete and other.sha256 == upload.sha256
            ]:
                await _to_its_end(self._drop(other))
            raise UploadNotFoundError("the upload has been lost") from error
        await asyncio.to_thread(self._folder.touch, upload)
        return data

    async def drop_unused(self) -> None:
        """Drops what nobody has used for too long."""
        for upload in [upload for upload in self._uploads.values() if self._expired(upload)]:
            await _to_its_end(self._drop(upload))

    async def drop_unused_for_ever(self) -> None:
        """Does so now and then, until cancelled."""
        while True:
            await asyncio.sleep(min(60.0, self._limits.seconds / 4))
            await self.drop_unused()

    def _expired(self, upload: Upload) -> bool:
        return not upload.writing and self._clock() - upload.used_at >= self._limits.seconds

    def _reserve(self, upload: Upload) -> list[Upload]:
        """Takes a new upload in, and returns those that have to go for it.

        Raises:
            UploadsFullError: there is no room.
        """
        upload.complete = any(
            other.complete and (other.owner, other.sha256, other.size) == (upload.owner, upload.sha256, upload.size)
            for other in self._uploads.values()
        )
        upload.received = upload.size if upload.complete else 0
        unneeded = self._unneeded_for(upload)
        upload.used_at = self._clock()
        self._uploads[upload.key] = upload
        return unneeded

    async def _begin(self, upload: Upload, unneeded: Iterable[Upload]) -> None:
        for other in unneeded:
            await self._drop(other)
        async with self._dropped_on_failure(upload), self._disk:
            await asyncio.to_thread(self._folder.keep, upload)

    async def _append(self, upload: Upload, data: bytes) -> None:
        async with self._dropped_on_failure(upload):
            await asyncio.to_thread(self._folder.append, upload, data)
            upload.received += len(data)
            if upload.received == upload.size:
                await self._complete(upload)

    def _unneeded_for(self, upload: Upload) -> list[Upload]:
        """Complete uploads that have served a request and have to go, those first that were used least lately.

        Raises:
            UploadsFullError: not even that makes room.
        """
        limits, kept = self._limits, list(self._uploads.values())
        own = [other for other in kept if other.client == upload.client]
        if not upload.complete:
            for others, most, whose in (
                (own, limits.client_unfinished, "of this client"),
                (kept, limits.total_unfinished, "in all"),
            ):
                if sum(not other.complete for other in others) >= most:
                    raise UploadsFullError(f"too many uploads are unfinished: {most} {whose} are allowed")
        unneeded: list[Upload] = []
        for others, most, whose in ((own, limits.client_bytes, "this client's"), (kept, limits.total_bytes, "all")):
            excess = sum(other.cost for other in others if other not in unneeded) + upload.cost - most
            served = (other for other in others if other.referred and not other.writing and other not in unneeded)
            for other in sorted(served, key=lambda other: other.used_at):
                if excess <= 0:
                    break
                unneeded.append(other)
                excess -= other.cost
            if excess > 0:
                raise UploadsFullError(f"no room: {whose} uploads may take {most} bytes together")
        return unneeded

    async def _complete(self, upload: Upload) -> None:
        """Makes a file of the bytes if they are the right ones."""
        sha256 = await asyncio.to_thread(self._folder.flushed_hash, upload)
        if sha256 != upload.sha256:
            raise InvalidInputError("sha256", f"is not that of the bytes, which is {sha256}; they have been dropped")
        async with self._disk:
            # The record first: should the process end in between, the upload is gone, but no file is left without one.
            await asyncio.to_thread(self._folder.keep, replace(upload, complete=True))
            await asyncio.to_thread(self._files.adopt, self._folder.part(upload), sha256)
            upload.complete = True

    async def _drop(self, upload: Upload) -> None:
        if self._uploads.get(upload.key) is upload:
            del self._uploads[upload.key]
        async with self._disk:
            shared = any(other.complete and other.sha256 == upload.sha256 for other in self._uploads.values())
            # The same id may have been begun anew.
            if upload.key not in self._uploads:
                await asyncio.to_thread(self._folder.remove, upload)
            if upload.complete and not shared:
                await asyncio.to_thread(self._files.remove, upload.sha256)

    @asynccontextmanager
    async def _dropped_on_failure(self, upload: Upload) -> AsyncIterator[None]:
        """Nothing is left of an upload that could not be written, or that is not what it should be.

        Raises:
            UploadsFullError: the disk is full.
            StorageError: the disk does not work.
        """
        try:
            with storage_errors("an upload"):
                yield
        except (StorageError, InvalidInputError) as error:
            await self._drop(upload)
            if isinstance(error, StorageFullError):
                log.error("the disk is full: an upload has been dropped")  # noqa: TRY400 - no defect, no traceback
                raise UploadsFullError("the server's disk is full; the upload has been dropped") from error
            raise


def _check(upload_id: str, size: int, sha256: str, limits: UploadLimits) -> None:
    if not _ID.fullmatch(upload_id):
        raise InvalidInputError("upload_id", 'must be 1 to 64 of A-Z, a-z, 0-9, "-" and "_"')
    if not 1 <= size <= limits.upload_bytes:
        raise InvalidInputError("size_bytes", f"is {size}, must be from 1 to {limits.upload_bytes}")
    if not _SHA256.fullmatch(sha256):
        raise InvalidInputError("sha256", "must be 64 hexadecimal digits")


def _check_same(upload: Upload, size: int, sha256: str) -> None:
    if size != upload.size:
        raise InvalidInputError("size_bytes", f"is {size}, but the upload was begun with {upload.size}")
    if sha256.lower() != upload.sha256:
        raise InvalidInputError("sha256", "is not the one that the upload was begun with")


Answer = TypeVar("Answer")


async def _to_its_end(work: Coroutine[Any, Any, Answer]) -> Answer:
    """What the work returns. A cancel is put off until it has ended: files and records must not part."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # nobody else will ask for it
        raise
