"""What the server had to work around, in one line each."""

from __future__ import annotations

from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["warning_line"]


def warning_line(warning: pb.WarningEvent) -> str:
    """Returns a warning for people, with the code that programs know it by."""
    return f"warning: {warning.message} ({warning.code})"
