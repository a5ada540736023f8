"""The jobs' records, in SQLite."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from intarsia_server.engine.request import ImageFormat
from intarsia_server.engine.stages import StageDone
from intarsia_server.jobs.record import ACTIVE, JobRecord, JobState, Outcome
from intarsia_server.jobs.storage import storage_errors

Answer = TypeVar("Answer")

VERSION = 1
"""Of the tables; a store of another version is left alone."""

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    client TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    areas TEXT NOT NULL,
    memory INTEGER NOT NULL,
    seconds REAL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    began_at REAL,
    ended_at REAL,
    attempts INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    fraction REAL NOT NULL,
    status BLOB NOT NULL,
    result TEXT NOT NULL,
    result_bytes INTEGER NOT NULL,
    outcome TEXT,
    UNIQUE (owner, request_id)
);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, number);
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (ended_at);
CREATE INDEX IF NOT EXISTS jobs_by_payload ON jobs (payload);
CREATE INDEX IF NOT EXISTS jobs_by_result ON jobs (result);
"""


class StoreError(RuntimeError):
    """The database cannot be used; the message says why."""


class JobStore:
    """Records of jobs, on a thread of its own: no call blocks the event loop, and they take effect in their order.

    Args:
        path: of the database; made if it is not there.
        durable: whether what has been saved must outlast a loss of power; the process's own death it outlasts anyway.

    Raises:
        StoreError: the file is no such database, or one of another version.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="intarsia-store")
        try:
            self._database = self._thread.submit(_open, path, durable).result()
        except sqlite3.Error as error:
            self._thread.shutdown()
            raise StoreError(f"the jobs' database cannot be used: {error}") from error

    async def save(self, record: JobRecord) -> None:
        """Stores a job, or how it stands now; it is on the disk when this returns.

        Raises:
            StorageError, StorageFullError: it is not stored; what was before still is.
        """
        row = _row(record)
        columns = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        changes = ", ".join(f"{name} = excluded.{name}" for name in row if name != "job_id")
        statement = f"INSERT INTO jobs ({columns}) VALUES ({values}) ON CONFLICT (job_id) DO UPDATE SET {changes}"
        await self._do(lambda database: database.execute(statement, row))

    async def get(self, job_id: str) -> JobRecord | None:
        """The job with that id."""
        return await self._first("job_id = ?", job_id)

    async def find(self, owner: str, request_id: str) -> JobRecord | None:
        """The owner's job with that request id."""
        return await self._first("owner = ? AND request_id = ?", owner, request_id)

    async def page(
        self, owner: str, states: Collection[JobState], *, before: int | None, limit: int
    ) -> Sequence[JobRecord]:
        """The owner's jobs in one of these states (none: in any), newest first.

        Args:
            owner: whose.
            states: which.
            before: number of the job that they are older than; None: the newest.
            limit: at most that many.
        """
        marks = ", ".join("?" * len(states))
        where = "owner = ?" + (f" AND state IN ({marks})" if states else "")
        if before is not None:
            where += " AND number < ?"
        arguments = (owner, *states, *([] if before is None else [before]), limit)
        return await self._select(f"{where} ORDER BY number DESC LIMIT ?", *arguments)

    async def active(self) -> Sequence[JobRecord]:
        """Jobs that have not ended, oldest first."""
        return await self._select(f"state IN ({', '.join('?' * len(ACTIVE))}) ORDER BY number", *ACTIVE)

    async def expired(self, *, ended_before: float, result_bytes: int) -> Sequence[JobRecord]:
        """Jobs that ended before that time, and the oldest of the others whose pictures are more than so many bytes."""
        newer = "SUM(result_bytes) OVER (ORDER BY ended_at DESC, number DESC)"
        pictures = f"SELECT number, {newer} AS kept FROM jobs WHERE result_bytes > 0"
        return await self._select(
            f"ended_at < ? OR number IN (SELECT number FROM ({pictures}) WHERE kept > ?)", ended_before, result_bytes
        )

    async def remove(self, job_ids: Collection[str]) -> None:
        """Forgets these jobs."""
        statement = "DELETE FROM jobs WHERE job_id IN (SELECT value FROM json_each(?))"
        ids = json.dumps(list(job_ids))
        await self._do(lambda database: database.execute(statement, (ids,)))

    async def files(self) -> tuple[set[str], set[str]]:
        """Names of the inputs and of the results that are still wanted."""

        def ask(database: sqlite3.Connection) -> tuple[set[str], set[str]]:
            inputs = database.execute("SELECT payload FROM jobs WHERE ended_at IS NULL")
            results = database.execute("SELECT result FROM jobs")
            return {row[0] for row in inputs}, {row[0] for row in results}

        return await self._do(ask)

    async def wants(self, name: str, besides: Collection[str] = ()) -> bool:
        """Whether a job has this input or result, besides those with these ids."""
        wanted = "(payload = ?1 AND ended_at IS NULL) OR result = ?1"
        where = f"({wanted}) AND job_id NOT IN (SELECT value FROM json_each(?2))"
        return await self._first(where, name, json.dumps(list(besides))) is not None

    async def close(self) -> None:
        """Ends it once everything before has been done."""
        await self._do(lambda database: database.close())
        self._thread.shutdown()

    async def _first(self, where: str, *arguments: object) -> JobRecord | None:
        return next(iter(await self._select(where, *arguments)), None)

    async def _select(self, where: str, *arguments: object) -> Sequence[JobRecord]:
        def ask(database: sqlite3.Connection) -> list[JobRecord]:
            return [_record(row) for row in database.execute(f"SELECT * FROM jobs WHERE {where}", arguments)]

        return await self._do(ask)

    async def _do(self, work: Callable[[sqlite3.Connection], Answer]) -> Answer:
        with storage_errors("a job"):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._database)


def _open(path: Path, durable: bool) -> sqlite3.Connection:
    # Without transactions of Python's own: every statement is one.
    database = sqlite3.connect(path, isolation_level=None)
    database.row_factory = sqlite3.Row
    # The folder is one server's alone; and without memory to share with others, what is there opens on a full disk.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in {0, VERSION}:
        raise sqlite3.DatabaseError(f"it has version {version}, this server has {VERSION}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    if not version:
        database.executescript(_TABLES)
        database.execute(f"PRAGMA user_version = {VERSION}")
    return database


def _row(record: JobRecord) -> dict[str, Any]:
    outcome = record.outcome
    return {
        "job_id": record.job_id,
        "request_id": record.request_id,
        "owner": record.owner,
        "client": record.client,
        "kind": record.kind,
        "payload": record.payload,
        "width": record.size[0],
        "height": record.size[1],
        "areas": json.dumps(dict(record.areas)),
        "memory": record.memory,
        "seconds": record.seconds,
        "state": record.state,
        "created_at": record.created_at,
        "began_at": record.began_at,
        "ended_at": record.ended_at,
        "attempts": record.attempts,
        "epoch": record.epoch,
        "sequence": record.sequence,
        "fraction": record.fraction,
        "status": record.status,
        "result": outcome.sha256 if outcome else "",
        "result_bytes": outcome.size_bytes if outcome else 0,
        "outcome": json.dumps(asdict(outcome)) if outcome else None,
    }


def _record(row: sqlite3.Row) -> JobRecord:
    outcome = row["outcome"]
    return JobRecord(
        job_id=row["job_id"],
        request_id=row["request_id"],
        owner=row["owner"],
        client=row["client"],
        kind=row["kind"],
        payload=row["payload"],
        size=(row["width"], row["height"]),
        areas=json.loads(row["areas"]),
        memory=row["memory"],
        seconds=row["seconds"],
        state=JobState(row["state"]),
        created_at=row["created_at"],
        began_at=row["began_at"],
        ended_at=row["ended_at"],
        attempts=row["attempts"],
        epoch=row["epoch"],
        sequence=row["sequence"],
        status=row["status"],
        outcome=None if outcome is None else _outcome(json.loads(outcome)),
        fraction=row["fraction"],
        number=row["number"],
    )


def _outcome(fields: dict[str, Any]) -> Outcome:
    stages = tuple(
        StageDone(**{**stage, "losses": tuple((name, segment, value) for name, segment, value in stage["losses"])})
        for stage in fields["stages"]
    )
    return Outcome(**{**fields, "format": ImageFormat(fields["format"]), "stages": stages})
