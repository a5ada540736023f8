"""What `intarsia estimate` says beside what jobs then take: seconds, and the worker's memory.

`python -m bench.estimate` from the repository's root. Every job runs on a server of its own, which knows no more than
what it measured when it started; what the server says once it has run the job stands beside that. Memory is the growth
of the worker's largest resident set over what it held before, so it needs Linux and a CPU worker.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from intarsia import Client, build_request
from intarsia.v1 import style_transfer_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out" / "estimate.json"
STYLES = ("brush", "glass", "ink")
SPAWNED = b"--multiprocessing-fork"
"""On the command line of a worker: multiprocessing's own mark."""


@dataclass(frozen=True)
class Case:
    """A job: the example at some size, and what is asked for beyond it."""

    method: str
    size: int
    precision: str = "auto"
    steps: int = 6
    parameters: Mapping[str, object] | None = None

    @property
    def name(self) -> str:
        """For the table."""
        knobs = "".join(f" {key}={value}" for key, value in (self.parameters or {}).items())
        return f"{self.method} {self.size} {self.precision}{knobs}"


CASES = (
    *(Case(method, 300) for method in ("gatys", "sequential", "sequential-smooth", "single-shot")),
    *(Case("masked-gram", size) for size in (150, 300, 600, 900)),
    *(Case("blended", size) for size in (300, 600)),
    *(Case("masked-gram", size, "fp32") for size in (300, 600)),
    Case("masked-gram", 300, "bf16"),
    Case("blended", 300, steps=50),
    Case("gatys", 300, parameters={"0.style_scale": 2}),
    Case("gatys", 300, parameters={"optimizer": "adam"}),
    Case("masked-gram", 300, parameters={"capped_gradients": True}),
)


@dataclass(frozen=True)
class Row:
    """One job: seconds and bytes, estimated before it, after it, and measured."""

    name: str
    seconds_before: float
    seconds_after: float
    seconds: float
    bytes_before: int
    bytes: int

    @property
    def errors(self) -> tuple[float, float, float]:
        """Of the seconds before and after, and of the bytes: 0.25 is a quarter too much."""
        return (
            self.seconds_before / self.seconds - 1,
            self.seconds_after / self.seconds - 1,
            self.bytes_before / self.bytes - 1,
        )


def example_job(case: Case) -> pb.StylizeRequest:
    """The packaged example as the case has it."""
    folder = ROOT / "examples"
    return build_request(
        folder / "content.png",
        labels=folder / "labels.png",
        styles={label: folder / "styles" / f"{name}.png" for label, name in enumerate(STYLES)},
        method=case.method,
        size=case.size,
        steps=case.steps,
        precision=case.precision,
        parameters=case.parameters,
    )


def measure(case: Case) -> Row:
    """Runs a case on a fresh server."""
    job = example_job(case)
    with Client.embedded() as client:
        before = client.ask_estimate(job)
        (worker,) = workers_of(os.getpid())
        # From here on, the largest resident set is that of this job.
        Path(f"/proc/{worker}/clear_refs").write_text("5")
        result = client.start(job).result()
        growth = largest_memory(worker) - before.idle_memory_bytes
        after = client.ask_estimate(job)
    return Row(
        name=case.name,
        seconds_before=before.run_time.ToTimedelta().total_seconds(),
        seconds_after=after.run_time.ToTimedelta().total_seconds(),
        seconds=result.run_time.total_seconds(),
        bytes_before=before.memory_bytes,
        bytes=growth,
    )


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers among all that a process has started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parents[int(entry.name)] = _parent(entry)

    def below(parent: int) -> Iterator[int]:
        for child in [child for child, its in parents.items() if its == parent]:
            yield child
            yield from below(child)

    return [child for child in below(pid) if SPAWNED in _arguments(child)]


def largest_memory(pid: int) -> int:
    """The largest resident set of a process, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []  # it has ended


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0  # it has ended


def table(rows: Sequence[Row]) -> str:
    """For people."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'':{width}}  seconds  before   after      MiB  before"]
    for row in rows:
        before, after, memory = row.errors
        mebibytes = row.bytes / 2**20
        lines.append(
            f"{row.name:{width}}  {row.seconds:7.2f} {before:+7.0%} {after:+7.0%}  {mebibytes:7.0f} {memory:+7.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table and writes `bench/out/estimate.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only in case.name]
    if not cases:
        parser.error(f"--only: none of {', '.join(case.name for case in CASES)}")
    rows = []
    for case in cases:
        rows.append(measure(case))
        print(table(rows[-1:]).splitlines()[1], flush=True)
    print(f"\n{table(rows)}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"load_average": os.getloadavg()[0], "rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
