"""The table that `intarsia evaluate` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from intarsia.cli.judgements import FIGURES, Judgement, best, content_seam, margin_of, number, printable
from intarsia.request import KEEP

__all__ = ["figures_table", "fold"]

_NAME_WIDTH = 12
"""At which three results fit into 80 columns."""


def figures_table(judgements: Sequence[Judgement], looks: Mapping[int, str]) -> Table:
    """Returns a row for each figure, a column for each picture.

    Args:
        judgements: The pictures and their figures.
        looks: By label, the path of its style image, or "keep".
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for judgement in judgements:
        table.add_column(escape(fold(judgement.name)), justify="right", overflow="fold")
    table.add_column("how to read it", style="dim")
    for figure in FIGURES:
        winners = best(figure, judgements)
        values = [number(figure.of(judgement.figures)) for judgement in judgements]
        marked = [f"[bold]{text}[/]" if index in winners else text for index, text in enumerate(values)]
        table.add_row(figure.name, *marked, figure.reading)
        if figure.name == "style margin":
            for segment, label in enumerate(sorted(looks)):
                if looks[label] != KEEP:
                    margins = [number(margin_of(judgement.figures, segment)) for judgement in judgements]
                    style = escape(printable(Path(looks[label]).name))
                    table.add_row(f"  label {label}", *margins, style, style="dim")
        if figure.name == "seam":
            seams = [number(content_seam(judgement.figures)) for judgement in judgements]
            table.add_row("  of the content", *seams, "at the same size", style="dim")
    return table


def fold(name: str) -> str:
    """Breaks a long name into lines between its words, never within one."""
    lines = [""]
    for word in re.findall(r"[^-._/ ]*[-._/ ]*", name):
        if lines[-1] and len(lines[-1] + word) > _NAME_WIDTH:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)
