"""Runs every method on every set and writes docs/quality.md: `python -m bench.quality` from the repository's root.

Pictures go to bench/out/quality and are not made again while they are there. One private server does all the work, by
the way that any client takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from intarsia import Client

from bench.quality.figures import Figures, Table
from bench.quality.page import METHODS, write_page
from bench.quality.sets import QualitySet, quality_sets

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "out" / "quality"


def main() -> None:
    """Makes what is missing, judges everything, writes the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--size", type=int, default=320, help="the results' longer side in pixels")
    parser.add_argument("--pictures", type=Path, default=ROOT.parent / "shared" / "data", help="folder of paintings")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "quality.md")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    sets = quality_sets(options.pictures)
    with Client.embedded() as client:
        table: Table = {each.name: _judge(client, each, options.size) for each in sets}
    figures = {name: {method: row.as_dict() for method, row in rows.items()} for name, rows in table.items()}
    (OUT / "figures.json").write_text(json.dumps({"size": options.size, "figures": figures}, indent=1))
    write_page(options.page, table, sets, options.size, OUT)


def _judge(client: Client, each: QualitySet, size: int) -> dict[str, Figures]:
    rows = {}
    for method in METHODS:
        path = each.result(OUT, method, size)
        seconds = _make(client, each, method, size, path)
        found = client.evaluate(each.content, path, labels=each.labels(), styles=each.styles)
        rows[method] = Figures.of(found, seconds)
        figures = rows[method]
        sys.stderr.write(f"{each.name}, {method}: seam {figures.seam:.2f}, transition {figures.transition:.2f}\n")
    return rows


def _make(client: Client, each: QualitySet, method: str, size: int, path: Path) -> float:
    """Seconds that the picture took, now or when it was made."""
    clock = path.with_suffix(".seconds")
    if not clock.is_file():
        began = time.monotonic()
        job = client.stylize(each.content, labels=each.labels(), styles=each.styles, method=method, size=size)
        job.result().save(path)
        clock.write_text(f"{time.monotonic() - began:.1f}")
    return float(clock.read_text())


if __name__ == "__main__":
    main()
