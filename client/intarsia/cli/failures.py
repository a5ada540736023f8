"""From errors to messages and exit codes, for all commands alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import typer
from typer.core import TyperGroup

from intarsia.cli.notices import show_notices
from intarsia.errors import IntarsiaError, RequestError

__all__ = ["CANCELLED", "FAILED", "USAGE", "Commands"]

FAILED = 1
USAGE = 2
CANCELLED = 130

# What stays wrong until the caller changes something.
_USAGE_CODES = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
)
_USAGE_OS_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class Commands(TyperGroup):
    """The group of all commands: none of them ends with a traceback for an error that can be expected."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; expected errors become a message on stderr and an exit code."""
        show_notices()
        with _reported():
            return super().invoke(ctx)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise _exit(USAGE, [str(error)]) from error
    except IntarsiaError as error:
        raise _exit(_exit_code(error), _lines(error)) from error
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise _exit(USAGE if isinstance(error, _USAGE_OS_ERRORS) else FAILED, [message]) from error
    except KeyboardInterrupt as error:
        raise _exit(CANCELLED, ["cancelled"]) from error


def _exit_code(error: IntarsiaError) -> int:
    if error.code is grpc.StatusCode.CANCELLED:
        return CANCELLED
    return USAGE if error.code in _USAGE_CODES else FAILED


def _lines(error: IntarsiaError) -> list[str]:
    violations = [f"{field}: {description}" for field, description in error.violations]
    # With a single violation, the message says the same once more.
    lines = violations if len(violations) == 1 else [error.message, *(f"  {line}" for line in violations)]
    if error.retry_after_seconds is not None:
        lines.append(f"  try again in {error.retry_after_seconds:.0f} s")
    return lines + getattr(error, "__notes__", [])


def _exit(code: int, lines: list[str]) -> typer.Exit:
    sys.stderr.write("intarsia: " + "\n".join(lines) + "\n")
    return typer.Exit(code)
