"""The benchmark: what Intarsia promises of its speed, measured beside the published procedure.

`python -m bench` from the repository's root runs every part, `python -m bench attempt3 --size 300` one of them. Each
part writes its figures with all samples to bench/out/parts/*.json; the table (bench/out/table.md) and the plot of loss
over time (bench/out/losses.png) are made of whatever lies there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from intarsia.files import write_atomically
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.executors.worker import keep_memory

from bench import anatomy, attempt2, attempt3, demo, pastiche, plot, scale, service, step, tiling
from bench.options import OUT, Options
from bench.report import Report, read_reports, table

PARTS: Mapping[str, Callable[[Options], Iterator[Report]]] = {
    "attempt3": attempt3.run,
    "attempt2": attempt2.run,
    "step": step.run,
    "anatomy": anatomy.run,
    "pastiche": pastiche.run,
    "service": service.run,
    "demo": demo.run,
    "tiling": tiling.run,
    "scale": scale.run,
}
"""By name, in the order in which they run."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the parts, then makes the table and the plot."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--size", type=int, help="longer side in pixels (default: those of the goals)")
    parser.add_argument("--steps", type=int, help="of every optimisation: to try the benchmark, not the goals")
    parser.add_argument("--rounds", type=int, help="timed samples of each contender (default: each part's own)")
    parser.add_argument("--full", action="store_true", help="run to the end what takes hours")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to")
    values = vars(parser.parse_args(arguments))
    names: list[str] = values["parts"] or list(PARTS)
    options = Options(**{field.name: values[field.name] for field in fields(Options)})
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if min(value for value in (options.size, options.steps, options.rounds, 1) if value is not None) < 1:
        parser.error("--size, --steps and --rounds must be at least 1")
    # The product's worker process keeps freed memory; the other side shares this process and gains from it too.
    keep_memory()
    for name in names:
        sys.stderr.write(f"{name}\n")
        try:
            for report in PARTS[name](options):
                report.write(options.out)
        except InvalidInputError as error:
            parser.error(f"--size: {error.reason}")
    summarise(options.out)


def summarise(out: Path) -> None:
    """Writes and prints the table of everything that has been measured, and draws the plot."""
    reports = read_reports(out)
    text = table(reports)
    write_atomically(out / "table.md", text.encode())
    panels = [report.panel for report in reports if report.panel is not None]
    if panels:
        plot.draw(out / "losses.png", panels)
    print(text, end="")


if __name__ == "__main__":
    main()
