"""Fixtures of the kernels' tests: the emulator's module, compiled once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from emulator_build import KERNELS, compile_bindings, compile_kernel, link


@pytest.fixture(scope="session")
def emulator_objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Object files by kernel, and that of the bindings."""
    out = tmp_path_factory.mktemp("objects")
    return {"bindings": compile_bindings(out)} | {name: compile_kernel(name, out) for name in KERNELS}


@pytest.fixture(scope="session")
def emulator(emulator_objects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return link(emulator_objects.values(), tmp_path_factory.mktemp("emulator"))
