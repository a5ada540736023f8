"""`--previews`: each preview as a file."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from intarsia.cli.job import Listener
from intarsia.files import write_atomically
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["preview_files"]


def preview_files(folder: Path) -> Listener:
    """Makes the folder and returns the listener that writes `0001-<stage>-<step>.jpg` and so on into it.

    Raises:
        OSError: The folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = count(1)

    def write(response: pb.StylizeResponse) -> None:
        if response.HasField("preview"):
            preview = response.preview
            stage = re.sub(r"[^a-z0-9]+", "-", preview.stage.lower())
            write_atomically(folder / f"{next(numbers):04d}-{stage}-{preview.step}.jpg", preview.image.data)

    return write
