"""What the server is made of."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from collections.abc import Mapping

VERSIONED = ("intarsia", "torch", "torchvision", "grpcio", "protobuf", "pillow")


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions by name: of the packages that matter, and of Python. Looked up in files, once."""
    return {name: importlib.metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}
