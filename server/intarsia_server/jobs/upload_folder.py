"""What is on disk of an upload: a record, and its bytes so far. Every call blocks: away from the event loop with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from intarsia_server.jobs.files import FileStore

LEAST_COST = 2**20
"""Bytes that the smallest upload counts for: a name, a record and two files are not free."""


@dataclass(eq=False)
class Upload:
    """One picture on its way, or arrived.

    Attributes:
        owner: whom it belongs to.
        upload_id: chosen by the caller, its owner's own.
        client: whose quota it counts for.
        size: of the whole, in bytes.
        sha256: of the whole, in lower case.
        complete: all has arrived and the hash is right.
        received: bytes that have arrived.
        used_at: seconds since the epoch.
        referred: a request has asked for it since it was complete.
        writing: a call has it open.
    """

    owner: str
    upload_id: str
    client: str
    size: int
    sha256: str
    complete: bool = False
    received: int = field(default=0, metadata={"kept": False})
    used_at: float = field(default=0.0, metadata={"kept": False})
    referred: bool = field(default=False, metadata={"kept": False})
    writing: bool = field(default=False, metadata={"kept": False})

    @property
    def key(self) -> tuple[str, str]:
        """Under which it is found."""
        return self.owner, self.upload_id

    @property
    def stem(self) -> str:
        """Of its files' names; says nothing of owner or id, and is no path whatever they are."""
        return hashlib.sha256(f"{self.owner}\0{self.upload_id}".encode()).hexdigest()

    @property
    def cost(self) -> int:
        """What it counts for, in bytes."""
        return max(self.size, LEAST_COST)


_KEPT = {name for name, known in Upload.__dataclass_fields__.items() if known.metadata.get("kept", True)}


class UploadFolder:
    """A folder with the records of all uploads, and the bytes of those that are not complete.

    Args:
        path: made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def left_behind(self, files: FileStore) -> Iterator[Upload]:
        """Uploads of an earlier process; what belongs to none of them is removed.

        Args:
            files: where the complete ones' bytes are.
        """
        known: set[Path] = set()
        for record in sorted(self._path.glob("*.json")):
            try:
                upload = Upload(**json.loads(record.read_text()))
            except (ValueError, TypeError):
                continue
            part = self.part(upload)
            newest = part if part.exists() and not upload.complete else record
            upload.used_at = newest.stat().st_mtime
            if upload.complete:
                upload.received = files.size(upload.sha256) or 0
            elif newest is part:
                upload.received = part.stat().st_size
            if upload.received == upload.size if upload.complete else upload.received <= upload.size:
                known |= {record, newest}
                yield upload
        for path in self._path.iterdir():
            if path not in known:
                path.unlink()

    def part(self, upload: Upload) -> Path:
        """The file of its bytes so far."""
        return self._path / f"{upload.stem}.part"

    def keep(self, upload: Upload) -> None:
        """Writes its record, whole or not at all.

        Raises:
            OSError: no room.
        """
        kept = {name: value for name, value in asdict(upload).items() if name in _KEPT}
        temporary = self._path / f"{upload.stem}.new"
        try:
            temporary.write_text(json.dumps(kept))
            temporary.replace(self._record(upload))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def touch(self, upload: Upload) -> None:
        """A record is as old as the upload's last use, for the next process."""
        with suppress(FileNotFoundError):
            os.utime(self._record(upload))

    def append(self, upload: Upload, data: bytes) -> None:
        """Writes behind the bytes that have arrived; what lies there already was never counted.

        Raises:
            OSError: no room.
        """
        with self.part(upload).open("r+b" if upload.received else "wb", buffering=0) as file:
            file.seek(upload.received)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]

    def flushed_hash(self, upload: Upload) -> str:
        """SHA-256 of the bytes, which are on the disk itself from then on.

        Raises:
            OSError: no room, on file systems that find out so late.
        """
        with self.part(upload).open("rb") as file:
            os.fsync(file.fileno())
            return hashlib.file_digest(file, "sha256").hexdigest()

    def remove(self, upload: Upload) -> None:
        """Record and bytes."""
        self._record(upload).unlink(missing_ok=True)
        self.part(upload).unlink(missing_ok=True)

    def _record(self, upload: Upload) -> Path:
        return self._path / f"{upload.stem}.json"
