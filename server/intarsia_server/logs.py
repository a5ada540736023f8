"""Log lines, as text or as JSON, with the job that they are about. No torch here: front and workers write them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["text", "json"]

_fields: ContextVar[Mapping[str, str]] = ContextVar("intarsia_log_fields")


@contextmanager
def log_fields(fields: Mapping[str, str]) -> Iterator[None]:
    """Gives the lines that are logged within it these further fields; empty ones are left out."""
    before = current_fields()
    add_log_fields(fields)
    try:
        yield
    finally:
        _fields.set(before)


def add_log_fields(fields: Mapping[str, str]) -> None:
    """Gives the lines that are logged from here on, in the same task, these further fields."""
    _fields.set({**current_fields(), **{name: value for name, value in fields.items() if value}})


def current_fields() -> Mapping[str, str]:
    """The fields that a line logged here would have."""
    return _fields.get({})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, process, logger, message, the fields around it, and a traceback.

    Args:
        process: who writes, "server" or "worker".
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line; line breaks are escaped in it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **current_fields(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Passing(logging.Handler):
    """Hands each line on, with its end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self.format(record) + "\n")


def set_up_logs(process: str, *, level: str, log_format: LogFormat, write: Callable[[str], None] | None = None) -> None:
    """Sends this process's log to standard error, or to `write`, line by line."""
    handler = logging.StreamHandler() if write is None else _Passing(write)
    handler.setFormatter(
        JsonFormatter(process)
        if log_format == "json"
        else logging.Formatter(f"%(asctime)s %(levelname)s {process} %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=write is not None)
    # Python's warnings would be lines of their own form otherwise.
    logging.captureWarnings(log_format == "json")
