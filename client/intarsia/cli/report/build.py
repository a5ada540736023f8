"""Puts a report together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from intarsia.cli.judgements import Judgement
from intarsia.cli.pictures import open_picture
from intarsia.cli.report.curves import seam_chart, transition_charts, way_section
from intarsia.cli.report.page import page, section
from intarsia.cli.report.pictures import made_of, results_gallery, zooms
from intarsia.cli.report.sources import Sources, Way
from intarsia.cli.report.table import figures_table, warning_list
from intarsia.cli.segments import segment_map
from intarsia.files import write_atomically
from intarsia.version import __version__

__all__ = ["write_report"]


def write_report(path: Path, sources: Sources, judgements: Sequence[Judgement], ways: Sequence[Way]) -> None:
    """Writes one HTML file with all pictures in it and nothing to fetch.

    Args:
        path: The file.
        sources: What the pictures were made of.
        judgements: The pictures and their figures.
        ways: How the first of them came about; may be fewer.

    Raises:
        OSError: A picture cannot be read, or the file not written.
        RequestError: A file is no picture.
    """
    content = open_picture(sources.content)
    segments = segment_map(Image.open(sources.labels), sources.order)
    results = [open_picture(judgement.path) for judgement in judgements]
    body = [
        section(
            "Figures",
            "The best of each row stands out where there are several.",
            figures_table(judgements, sources),
            warning_list(judgements),
        ),
        section(
            "Made of",
            "The content image, its segments, and the style of each.",
            made_of(content, segments, sources),
        ),
        section(
            "Results",
            "Each at the size that it was judged at, or smaller.",
            results_gallery(judgements, results, sources),
        ),
        section(
            "Borders close up",
            "The same places in the content image and in every result.",
            zooms(content, segments, judgements, results, sources),
        ),
        section(
            "Across the borders",
            "Where each picture stands between two styles, from 0 (the first) to 1 (the second), by distance from "
            "their border: a step is a cut, a slope flows.",
            transition_charts(judgements, sources),
        ),
        section(
            "Seam",
            "Mean gradient by distance from a border, over that 6 to 15 pixels away: over 1 a cut, under 1 a smear.",
            seam_chart(judgements),
        ),
        *(way_section(judgement, way) for judgement, way in zip(judgements, ways, strict=False)),
    ]
    title = f"Evaluation of {', '.join(judgement.name for judgement in judgements)}"
    subtitle = f"{sources.content.name}, {content.width} × {content.height} pixels, {len(sources.looks)} segments"
    text = page(title, subtitle, body, f"intarsia {__version__}; docs/evaluation.md says how each figure is defined.")
    # File names may hold bytes that are no text; they show as question marks.
    write_atomically(path, text.encode(errors="replace"))
