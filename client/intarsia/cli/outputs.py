"""Checks on output paths, made before any work is done for them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from intarsia.cli.events import STDOUT
from intarsia.errors import RequestError
from intarsia.files import write_atomically

__all__ = ["IMAGE_FORMATS", "check_output", "write_json"]

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


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a JSON object to a file, or to stdout for "-".

    Raises:
        OSError: The file cannot be written.
    """
    text = json.dumps(value, indent=2) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
    else:
        write_atomically(path, text.encode())
