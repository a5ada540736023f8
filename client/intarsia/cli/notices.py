"""What a person should hear beside progress and results, in one line each."""

from __future__ import annotations

import logging
import sys

from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["show_notices", "warning_line"]


class _Stderr(logging.Handler):
    """Writes to what stderr is at that moment: a progress bar puts something of its own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.getMessage()}\n")


def show_notices() -> None:
    """Shows on stderr what the client logs: that it has attached to a job again, above all."""
    logger = logging.getLogger("intarsia")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
        logger.setLevel(logging.INFO)


def warning_line(warning: pb.WarningEvent) -> str:
    """Returns a warning for people, with the code that programs know it by."""
    return f"warning: {warning.message} ({warning.code})"
