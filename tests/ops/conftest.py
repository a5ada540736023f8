"""Parameters of the operators' tests: `--device`, and the tables of `ops_cases`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ops_cases import tables


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=("cpu", "cuda"), help="where the operators are tested")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # pytest run on a folder above this one reads its command line before it sees the option.
    device = torch.device(metafunc.config.getoption("--device", "cpu"))
    for name, values in tables(device).items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values.values(), ids=values)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What needs a GPU is not there to be skipped."""
    return True if collection_path.name == "test_cuda.py" and config.getoption("--device", "cpu") == "cpu" else None
