"""The report's table of figures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from intarsia.cli.judgements import FIGURES, Judgement, best, content_seam, margin_of, number
from intarsia.cli.notices import warning_line
from intarsia.cli.report.sources import Sources
from intarsia.request import KEEP

__all__ = ["figures_table", "warning_list"]


def figures_table(judgements: Sequence[Judgement], sources: Sources) -> str:
    """Returns a row for each figure, a column for each picture."""
    head = "".join(f"<th>{escape(judgement.name)}</th>" for judgement in judgements)
    rows = [f"<thead><tr><th></th>{head}<th>how to read it</th></tr></thead>"]
    for item in FIGURES:
        winners = best(item, judgements)
        rows.append(_row(item.name, [item.of(j.figures) for j in judgements], item.reading, winners=winners))
        if item.name == "style margin":
            for segment, label in enumerate(sources.order):
                if sources.looks[label] != KEEP:
                    margins = [margin_of(judgement.figures, segment) for judgement in judgements]
                    rows.append(_row(sources.label(segment), margins, "", part=True))
        if item.name == "seam":
            seams = [content_seam(judgement.figures) for judgement in judgements]
            rows.append(_row("of the content image", seams, "", part=True))
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>'


def warning_list(judgements: Sequence[Judgement]) -> str:
    """Returns what the server had to work around, and for which pictures; "" where there was nothing."""
    names: dict[str, list[str]] = {}
    for judgement in judgements:
        for warning in judgement.figures.warnings:
            names.setdefault(warning_line(warning), []).append(judgement.name)
    return "".join(f"<p>{escape(line)}: {escape(', '.join(found))}</p>" for line, found in names.items())


def _row(
    name: str, values: Sequence[float | None], reading: str, *, winners: set[int] | None = None, part: bool = False
) -> str:
    cells = "".join(
        f"<td{' class=best' if winners and index in winners else ''}>{number(value)}</td>"
        for index, value in enumerate(values)
    )
    kind = ' class="part"' if part else ""
    return f"<tr{kind}><th>{escape(name)}</th>{cells}<td>{escape(reading)}</td></tr>"
