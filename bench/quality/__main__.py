"""Runs every method on every set and writes docs/quality.md: `python -m bench.quality` from the repository's root.

Pictures and their figures go to bench/out/quality and are not made again while they are there. One private server does
all the work, by the way that any client takes.
"""

from __future__ import annotations

import argparse
import json
import sys
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
        record = path.with_suffix(".json")
        if not record.is_file():
            job = client.stylize(each.content, labels=each.labels(), styles=each.styles, method=method, size=size)
            job.result().save(path)
            found = client.evaluate(each.content, path, labels=each.labels(), styles=each.styles)
            record.write_text(json.dumps(Figures.of(found).as_dict()))
        rows[method] = Figures(**json.loads(record.read_text()))
        sys.stderr.write(f"{each.name}, {method}: {rows[method]}\n")
    return rows


if __name__ == "__main__":
    main()
