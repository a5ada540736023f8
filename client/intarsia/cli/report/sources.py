"""What a report is made of beside the figures: pictures, and the way that a job went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from intarsia.cli.events import read_events
from intarsia.cli.history import History
from intarsia.errors import RequestError
from intarsia.request import KEEP

__all__ = ["Sources", "Way"]

_MOST_PREVIEWS = 8


@dataclass(frozen=True)
class Sources:
    """What the pictures were made of.

    Attributes:
        content: The content image.
        labels: The label map.
        looks: By label, the path of its style image, or "keep".
    """

    content: Path
    labels: Path
    looks: dict[int, str]

    @property
    def order(self) -> list[int]:
        """The labels in the order of the request's segments."""
        return sorted(self.looks)

    def label(self, segment: int) -> str:
        """What a segment is called in a caption."""
        look = self.looks[self.order[segment]]
        return f"label {self.order[segment]}: {look if look == KEEP else Path(look).stem}"


@dataclass(frozen=True)
class Way:
    """How a job came to its result.

    Attributes:
        history: Its losses; without any where none were given.
        previews: Name and path of a few of its previews, in order.
    """

    history: History = field(default_factory=History)
    previews: Sequence[tuple[str, Path]] = ()

    @classmethod
    def read_all(cls, events: Sequence[Path], previews: Sequence[Path]) -> list[Way]:
        """Reads the n-th file of events and the n-th folder of previews for the n-th result.

        Raises:
            OSError: A file or folder that cannot be read.
            RequestError: A file of other content, or a folder without a preview.
        """
        return [
            cls(_history(file) if file else History(), _previews(folder) if folder else ())
            for file, folder in zip_longest(events, previews)
        ]


def _history(path: Path) -> History:
    history = History()
    for response in read_events(path):
        history(response)
    return history


def _previews(folder: Path) -> list[tuple[str, Path]]:
    """At most eight, evenly over the way; names are those of `preview_files`: `0001-<stage>-<step>.jpg`."""
    files = sorted(folder.glob("*.jpg"))
    if not files:
        raise RequestError(f"{folder}: there is no preview in it")
    count = min(_MOST_PREVIEWS, len(files))
    chosen = [files[round(index * (len(files) - 1) / max(count - 1, 1))] for index in range(count)]
    return [(_caption(file), file) for file in chosen]


def _caption(file: Path) -> str:
    stage, dash, step = file.stem.partition("-")[2].rpartition("-")
    return f"{stage.replace('-', ' ')}, step {step}" if dash else file.stem
