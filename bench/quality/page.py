"""docs/quality.md: the table in words, figures and, for the shipped sets, pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from intarsia.cli.contact_sheet import Tile, contact_sheet, segment_colour
from PIL import Image

from bench.quality.figures import Figures, Table
from bench.quality.sets import QualitySet

METHODS = ("blended", "masked-gram", "sequential", "sequential-smooth", "single-shot", "gatys")
OURS, PLAIN = "blended", "masked-gram"
ATTEMPTS = ("sequential", "sequential-smooth", "single-shot")
RIVALS = (PLAIN, *ATTEMPTS)

_COLUMNS = ("seam", "transition", "palette", "margin", "worst", "content", "structure")

_HEAD = """# Quality

Written by `make quality`: every method at its defaults on {count} sets, longer side {size} pixels, judged as
`intarsia evaluate` does ([evaluation.md](evaluation.md) defines the figures; small is good, but for structure). *worst*
is the largest margin of any segment: over 1, that segment is nearer to another segment's style. `gatys` has one style
throughout and stands here for comparison only.

"""


def write_page(path: Path, table: Table, sets: Sequence[QualitySet], size: int, pictures: Path) -> None:
    """Writes the page and, beside it in images/, a sheet of pictures for each shipped set."""
    parts = [_HEAD.format(count=len(table), size=size), _summary(table)]
    for each in sets:
        parts.append(f"\n## {each.name.capitalize()}\n\n{_figures(table[each.name])}")
        if each.shipped:
            sheet = path.parent / "images" / f"quality-{each.slug}.jpg"
            picture = _sheet(each, table[each.name], size, pictures)
            picture.thumbnail((1400, 1400))
            picture.save(sheet, quality=85)
            parts.append(f"\n![The set and every method's result](images/{sheet.name})\n")
    path.write_text("".join(parts))


def _summary(table: Table) -> str:
    """What `blended` is held to, set by set: each figure over the one that it is compared with."""
    lines = [
        "| `blended` | seam over the best rival's | transition over the best rival's | margin over masked-gram's "
        "| worst margin | content over the best attempt's | structure over the best attempt's |",
        "|---|---|---|---|---|---|---|",
    ]
    columns: list[list[float]] = []
    for name, rows in table.items():
        ours = rows[OURS]
        values = [
            ours.seam / min(rows[rival].seam for rival in RIVALS),
            ours.transition / min(rows[rival].transition for rival in RIVALS),
            ours.margin / rows[PLAIN].margin,
            ours.worst,
            ours.content / min(rows[attempt].content for attempt in ATTEMPTS),
            ours.structure / max(rows[attempt].structure for attempt in ATTEMPTS),
        ]
        columns.append(values)
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    medians = [statistics.median(column) for column in zip(*columns, strict=True)]
    lines.append("| **median** | " + " | ".join(f"**{value:.2f}**" for value in medians) + " |")
    rivals = ", ".join(f"`{rival}`" for rival in RIVALS)
    return "\n".join(lines) + f"\n\nRivals are {rivals}; attempts are the last three of them.\n"


def _figures(rows: dict[str, Figures]) -> str:
    lines = ["| method | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for method, row in rows.items():
        values = row.as_dict()
        cells = " | ".join(f"{values[column]:.2f}" for column in _COLUMNS)
        lines.append(f"| `{method}` | {cells} |")
    return "\n".join(lines) + "\n"


def _sheet(each: QualitySet, rows: dict[str, Figures], size: int, pictures: Path) -> Image.Image:
    inputs = [Tile(Image.open(each.content).convert("RGB"), "Content image")]
    inputs += [
        Tile(Image.open(style).convert("RGB"), f"Style of label {label}", swatch=segment_colour(index))
        for index, (label, style) in enumerate(each.styles.items())
    ]
    results = [
        Tile(
            Image.open(each.result(pictures, method, size)).convert("RGB"),
            method,
            f"seam {row.seam:.2f}, transition {row.transition:.2f}",
        )
        for method, row in rows.items()
    ]
    half = len(results) // 2
    return contact_sheet(
        each.name.capitalize(), "every method at its defaults", [inputs, results[:half], results[half:]]
    )
