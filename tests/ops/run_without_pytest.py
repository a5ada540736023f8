"""Runs tests of this folder on a machine that has torch and no pytest.

`python tests/ops/run_without_pytest.py --device cuda test_masked_gram test_cuda::test_graph` runs whole files and the
functions of a file whose names begin so; without names, every file that imports without pytest. Each function runs
with every value of the tables that it asks for. The exit code is 1 if one fails.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from ops_cases import tables

Case = tuple[str, Callable[[], object]]


def files() -> Iterator[str]:
    """Names of the test files."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        yield path.stem


def cases(module: str, prefix: str, device: torch.device) -> Iterator[Case]:
    """Every call of the module's tests, by name."""
    found = tables(device)
    for name, function in list(vars(importlib.import_module(module)).items()):
        if not name.startswith(prefix or "test_") or not inspect.isfunction(function):
            continue
        arguments = list(inspect.signature(function).parameters)
        for values in itertools.product(*(found[argument].items() for argument in arguments)):
            given = {argument: value for argument, (_, value) in zip(arguments, values, strict=True)}
            yield f"{module}::{name}[{'-'.join(key for key, _ in values)}]", lambda f=function, g=given: f(**g)


def run(selected: list[str], device: torch.device) -> int:
    """Runs and reports; the number of failures."""
    passed, failed, began = 0, 0, time.monotonic()
    for selection in selected:
        module, _, prefix = selection.partition("::")
        for name, call in cases(module, prefix, device):
            try:
                call()
                if device.type == "cuda":
                    torch.cuda.synchronize()
            except Exception:  # a failing test does not stop the others
                failed += 1
                print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed in {time.monotonic() - began:.1f} s")
    return failed + (passed == 0)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("selected", nargs="*", metavar="FILE[::FUNCTION]")
    options = parser.parse_args()
    selected = options.selected
    if not selected:
        for name in files():
            try:
                importlib.import_module(name)
            except ImportError as error:
                print(f"not run: {name} ({error})")
            else:
                selected.append(name)
    sys.exit(run(selected, torch.device(options.device)) > 0)


if __name__ == "__main__":
    main()
