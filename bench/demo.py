"""Seconds of `intarsia demo`: all of the publication's attempts and ours, from the command to the last picture."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

from bench.clock import timed
from bench.example import machine
from bench.options import Options
from bench.report import Figure, Report

GOAL = 60.0


def run(options: Options) -> Iterator[Report]:
    """One report; the seconds of each method are among its facts."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "intarsia", "demo", "--output", folder]
        for name, value in (("--size", options.size), ("--steps", options.steps)):
            command += [] if value is None else [name, str(value)]
        # What it shows while it works goes to standard error, its seconds too; a failure's reason stands there as well.
        seconds, done = timed(partial(subprocess.run, command, capture_output=True, text=True, check=False))
    if done.returncode:
        raise RuntimeError(f"intarsia demo failed:\n{done.stderr}")
    facts = {"methods": method_seconds(done.stderr), "machine": machine()}
    yield Report(name="demo", figures=(Figure(name="demo", goal=GOAL, measured=seconds, unit="s"),), facts=facts)


def method_seconds(text: str) -> dict[str, float]:
    """Seconds of each method, as the demo says them."""
    return {found[1]: float(found[2]) for found in re.finditer(r"^.*: (\S+) took ([\d.]+) s$", text, re.MULTILINE)}
