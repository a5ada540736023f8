"""The compiled extension, where it was built."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch

NAME = "intarsia_server.ops._native"


def load() -> ModuleType | None:
    """Loads the extension, which registers its kernels; None where it was not built.

    Raises:
        ImportError: it was built, and cannot be loaded. Never a silent fall to slow kernels.
    """
    if importlib.util.find_spec(NAME) is None:
        return None
    try:
        return importlib.import_module(NAME)
    except ImportError as error:
        raise ImportError(
            f"the compiled operators do not load with torch {torch.__version__}: {error}; install intarsia again with "
            "this torch present (pip install --no-build-isolation), or delete the file to run on plain torch",
            name=NAME,
            path=error.path,
        ) from error


def implementation(module: ModuleType | None) -> str:
    """What `intarsia info` shows: "torch", or the devices that compiled kernels serve, as "native (cpu, cuda)"."""
    if module is None:
        return "torch"
    return f"native ({', '.join(module.build_info()['devices'])})"
