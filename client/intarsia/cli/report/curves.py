"""The report's charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

from intarsia.cli.contact_sheet import segment_colour
from intarsia.cli.history import TOTAL, History
from intarsia.cli.judgements import Judgement
from intarsia.cli.pictures import open_picture
from intarsia.cli.report.charts import Line, Mark, line_chart
from intarsia.cli.report.page import chart, figure, gallery, section
from intarsia.cli.report.sources import Sources, Way
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["seam_chart", "transition_charts", "way_section"]

_COLOURS = ("#c8452e", "#2f7fc1", "#2e9a63", "#9a6bc9", "#c99a16", "#3b9aa8", "#b0518c", "#8a7a5f")
_QUIET = "#8b867d"
_WHOLE_PICTURE = ("#8b867d", "#3b9aa8", "#b0518c", "#8a6a3f")
"""Of losses that belong to no segment: none of them a segment's colour."""
_MOST_BORDERS = 8


def transition_charts(judgements: Sequence[Judgement], sources: Sources) -> str:
    """Returns one chart per border, the longest first, with a line for each picture."""
    lengths: dict[tuple[int, int], int] = {}
    lines: dict[tuple[int, int], list[Line]] = {}
    for index, judgement in enumerate(judgements):
        for border in judgement.figures.borders:
            pair = border.first, border.second
            lengths[pair] = max(lengths.get(pair, 0), border.length)
            lines.setdefault(pair, []).append(_line(judgement.name, border.curve, _COLOURS[index % len(_COLOURS)]))
    charts = []
    for pair in sorted(lengths, key=lambda pair: -lengths[pair])[:_MOST_BORDERS]:
        first, second = map(sources.label, pair)
        svg = line_chart(
            f"From {first} to {second}",
            lines[pair],
            x_label="distance from the border in pixels",
            y_label="between the styles",
            marks=[Mark(0, "")],
            levels=(0, 1),
        )
        charts.append(chart(f"{first} → {second}", svg))
    return _charts(charts)


def seam_chart(judgements: Sequence[Judgement]) -> str:
    """Returns one chart with a line for each picture, and one for the content image."""
    lines = [
        _line(judgement.name, judgement.figures.seam.profile, _COLOURS[index % len(_COLOURS)])
        for index, judgement in enumerate(judgements)
    ]
    lines.append(_line("content image", judgements[0].figures.content_seam.profile, _QUIET, dashed=True))
    svg = line_chart(
        "Gradients beside borders", lines, x_label="distance in pixels", y_label="relative gradient", levels=(0.5, 1.5)
    )
    return _charts([chart("Gradients beside borders", svg)])


def way_section(judgement: Judgement, way: Way) -> str:
    """Returns a job's losses and pictures from the way; "" without either."""
    pictures = [figure(open_picture(path), caption, side=320) for caption, path in way.previews]
    svg = line_chart(
        f"Losses of {judgement.name}",
        list(_losses(way.history)),
        x_label="step",
        y_label="weighted loss",
        log=True,
        marks=[Mark(start, name) for name, start in way.history.stages if start > 0],
    )
    return section(
        f"The way to {judgement.name}",
        "Losses as they enter the objective, on a logarithmic scale, and pictures from the way.",
        _charts([chart("Losses by step", svg)]) if svg else "",
        gallery(pictures, tile=170),
    )


def _losses(history: History) -> Iterator[Line]:
    """The total and one line per loss; a segment's losses have its colour in the label map."""
    others = cycle(_WHOLE_PICTURE)
    for (name, segment), curves in history.curves.items():
        if (name, segment) == TOTAL:
            yield Line("total", curves, "currentColor", dashed=True)
        elif segment is None:
            yield Line(name, curves, next(others))
        else:
            yield Line(f"{name} {segment}", curves, f"rgb{segment_colour(segment)}")


def _line(name: str, points: Sequence[pb.CurvePoint], colour: str, *, dashed: bool = False) -> Line:
    return Line(name, [[(point.offset, point.value) for point in points]], colour, dashed)


def _charts(charts: Sequence[str]) -> str:
    inner = "".join(charts)
    return f'<div class="charts">{inner}</div>' if inner else ""
