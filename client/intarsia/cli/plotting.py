"""`--plot`: whether plots can be drawn, and drawing them without loading matplotlib before it is needed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from intarsia.cli.history import History
from intarsia.errors import RequestError

__all__ = ["SUFFIXES", "has_matplotlib", "require_matplotlib", "write_plot"]

SUFFIXES = (".png", ".pdf", ".svg")


def has_matplotlib() -> bool:
    """Says whether plots can be drawn, without importing matplotlib."""
    return importlib.util.find_spec("matplotlib") is not None


def require_matplotlib() -> None:
    """Checks that plots can be drawn.

    Raises:
        RequestError: matplotlib is missing; says how to install it.
    """
    if not has_matplotlib():
        raise RequestError("a plot needs matplotlib: pip install 'intarsia[plot]'")


def write_plot(path: Path, history: History, result: bytes) -> None:
    """Draws a job's losses and pictures by step.

    Args:
        path: A file whose suffix is one of `SUFFIXES`.
        history: What `History` heard of the job.
        result: The finished picture, encoded.

    Raises:
        OSError: The file cannot be written.
    """
    from intarsia.cli.plot import draw_plot  # optional, and slow to import

    draw_plot(path, history, result)
