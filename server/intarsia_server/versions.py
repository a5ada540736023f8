"""What the server is made of."""

from __future__ import annotations

import importlib.metadata
import platform

VERSIONED = ("intarsia", "torch", "torchvision", "grpcio", "protobuf", "pillow")


def versions() -> dict[str, str]:
    """Versions by name: of the packages that matter, and of Python."""
    return {name: importlib.metadata.version(name) for name in VERSIONED} | {"python": platform.python_version()}
