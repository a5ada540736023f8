"""Compiles the emulator's test module from csrc."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pybind11

CSRC = Path(__file__).resolve().parents[2] / "csrc"
KERNELS = ("masked_gram", "masked_gram_backward", "masked_tv", "layers")
OPTIONS = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-DINTARSIA_EMULATOR"]
# Two modules in one process must not share the emulator's state, as g++'s unique symbols would make them.
OPTIONS += ["-fPIC", "-fvisibility=hidden", "-fno-gnu-unique"]


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def compile_kernel(name: str, out: Path, csrc: Path = CSRC, *options: str) -> Path:
    """The object file of one of KERNELS in the folder `out`."""
    target = out / f"{name}.o"
    _run(["g++", *OPTIONS, *options, "-c", str(csrc / f"tests/run_{name}.cpp"), "-o", str(target)])
    return target


def compile_bindings(out: Path) -> Path:
    """The object file of what is no kernel."""
    target = out / "emulator_module.o"
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    _run(["g++", *OPTIONS, *includes, "-c", str(CSRC / "tests/emulator_module.cpp"), "-o", str(target)])
    return target


def link(objects: Iterable[Path], out: Path) -> Any:
    """The Python module `_emulator`, loaded from a library in the folder `out`."""
    library = out / "_emulator.so"
    _run(["g++", "-shared", *map(str, objects), "-o", str(library)])
    # pybind11 would return the first module of the same full name.
    spec = importlib.util.spec_from_file_location(f"{out.name}._emulator", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
