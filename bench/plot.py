"""The plot: loss over time for both sides, a panel for each comparison."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from intarsia.files import write_atomically
from matplotlib.figure import Figure

from bench.report import Panel

_COLOURS = ("#c8452e", "#2f6db5", "#2e8b57")
_INK, _GREY = "#222222", "#6f6f6f"


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Draws each panel's curves on logarithmic axes, with a dashed line at what they are timed to.

    Args:
        path: a .png.
        panels: at least one.
    """
    figure = Figure(figsize=(8.0, 4.2 * len(panels)), dpi=130, facecolor="white", layout="constrained")
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(len(panels), 1, number)
        axes.axhline(panel.target, color=_GREY, linewidth=0.9, linestyle=(0, (5, 4)), label="final objective")
        for curve, colour in zip(panel.curves, _COLOURS, strict=False):
            axes.plot(curve.seconds, curve.objectives, color=colour, linewidth=1.8, label=curve.name)
            axes.plot(curve.seconds[-1:], curve.objectives[-1:], "o", color=colour, markersize=5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(panel.title, loc="left", fontsize=11, color=_INK)
        axes.set_xlabel("seconds", color=_GREY)
        axes.set_ylabel("objective, fp32", color=_GREY)
        axes.tick_params(which="both", labelsize=9, colors=_GREY)
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
