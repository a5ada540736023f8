"""Checks on output paths, made before any work is done for them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from intarsia.errors import RequestError

__all__ = ["IMAGE_FORMATS", "check_output"]

IMAGE_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Format of a result by the suffix of its file."""


def check_output(path: Path, suffixes: Iterable[str]) -> None:
    """Checks that a file can be written.

    Raises:
        RequestError: Its suffix is none of `suffixes`, it is a folder, or its own folder is missing or read-only.
    """
    known = list(suffixes)
    if path.suffix.lower() not in known:
        raise RequestError(f"{path}: the file's name must end with {', '.join(known)}")
    if path.is_dir():
        raise RequestError(f"{path} is a folder")
    if not path.parent.is_dir():
        raise RequestError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RequestError(f"{path}: the folder {path.parent} cannot be written")
