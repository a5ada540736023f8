"""Whether the service can be trusted: `python -m bench.trust` from the repository's root, or some parts of it by name.

Each part writes its figures to bench/out/trust/parts/*.json; the table (bench/out/trust/table.md) is made of whatever
lies there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from intarsia.files import write_atomically

from bench.report import Report, read_reports, table
from bench.trust import (
    cancel,
    clients,
    disk,
    fairness,
    fuzz,
    intruders,
    kill_server,
    kill_worker,
    loop_lag,
    memory,
    overload,
    terminate,
    watchers,
)
from bench.trust.options import Options

PARTS: Mapping[str, Callable[[Options], Iterator[Report]]] = {
    "cancel": cancel.run,
    "clients": clients.run,
    "kill-worker": kill_worker.run,
    "kill-server": kill_server.run,
    "disk": disk.run,
    "watchers": watchers.run,
    "overload": overload.run,
    "fairness": fairness.run,
    "memory": memory.run,
    "lag": loop_lag.run,
    "terminate": terminate.run,
    "intruders": intruders.run,
    "fuzz": fuzz.run,
}
"""By name, in the order in which they run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts and makes the table; returns 1 where a goal was missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.trust", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--requests", type=int, default=Options.requests, help="fuzzed requests")
    parser.add_argument("--pictures", type=int, default=Options.pictures, help="mutated pictures")
    parser.add_argument("--overload-seconds", type=float, default=Options.overload_seconds, help="too much to do")
    parser.add_argument("--fairness-seconds", type=float, default=Options.fairness_seconds, help="two clients compete")
    parser.add_argument("--cancels", type=int, default=Options.cancels, help="of running jobs")
    parser.add_argument("--worker-kills", type=int, default=Options.worker_kills, help="jobs whose worker is killed")
    parser.add_argument("--server-kills", type=int, default=Options.server_kills, help="of the server")
    parser.add_argument("--jobs", type=int, default=Options.jobs, help="small ones in a row")
    parser.add_argument("--terminations", type=int, default=Options.terminations, help="of a server with a job")
    parser.add_argument("--load-seconds", type=float, default=Options.load_seconds, help="at full load")
    parser.add_argument("--kills", type=int, default=Options.kills, help="clients that are killed")
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="jobs with watchers, and as many without")
    parser.add_argument("--watchers", type=int, default=Options.watchers, help="of one job, a tenth of them slow")
    parser.add_argument("--seed", type=int, default=Options.seed, help="of whatever is drawn")
    parser.add_argument("--out", type=Path, default=Options.out, help="folder to write to")
    values = vars(parser.parse_args(arguments))
    names: list[str] = values["parts"] or list(PARTS)
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options = Options(**{field.name: values[field.name] for field in fields(Options)})
    for name in names:
        sys.stderr.write(f"{name}\n")
        for report in PARTS[name](options):
            report.write(options.out)
    reports = read_reports(options.out)
    text = table(reports)
    write_atomically(options.out / "table.md", text.encode())
    print(text, end="")
    return 0 if all(figure.reached for report in reports for figure in report.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
