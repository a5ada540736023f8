"""Judged pictures: what `intarsia evaluate` shows, whatever form it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["FIGURES", "Figure", "Judgement", "best", "content_seam", "margin_of", "number", "printable", "short_names"]

_POINT = re.compile(r"(?<!\d)\.|\.(?!\d)")
"""A dot that is no decimal point."""


@dataclass(frozen=True)
class Judgement:
    """A picture and its figures."""

    path: Path
    name: str
    figures: pb.EvaluateResponse


class Figure(NamedTuple):
    """A figure of merit: its name, how to read it, and where it stands in a response (None: absent)."""

    name: str
    reading: str
    of: Callable[[pb.EvaluateResponse], float | None]
    larger_is_better: bool = False


FIGURES = (
    Figure("style margin", "under 1 is right", lambda r: _optional(r, "style_margin")),
    Figure("seam", "1 is invisible", lambda r: r.seam.value if r.HasField("seam") else None),
    Figure("transition", "small; 1 is a cut", lambda r: _optional(r, "transition")),
    Figure("palette", "small: colours meet", lambda r: _optional(r, "palette")),
    Figure("content", "small is faithful", lambda r: r.content),
    Figure("structure", "1 keeps all edges", lambda r: r.structure, larger_is_better=True),
)


def best(figure: Figure, judgements: Sequence[Judgement]) -> set[int]:
    """Returns which of several pictures have the best value, as it is printed; none when all have the same."""
    values = {index: number(figure.of(judgement.figures)) for index, judgement in enumerate(judgements)}
    present = {index: float(text) for index, text in values.items() if text != number(None)}
    if len(set(present.values())) < 2:
        return set()
    top = (max if figure.larger_is_better else min)(present.values())
    return {index for index, value in present.items() if value == top}


def margin_of(response: pb.EvaluateResponse, segment: int) -> float | None:
    """Returns the margin of a segment; None when it has none."""
    for margin in response.margins:
        if margin.segment == segment and margin.HasField("margin"):
            return margin.margin
    return None


def number(value: float | None) -> str:
    """Returns a figure as text."""
    return "–" if value is None else f"{value:.3f}"


def content_seam(response: pb.EvaluateResponse) -> float | None:
    """Returns the content image's seam; None where there is no border."""
    return response.content_seam.value if response.HasField("content_seam") else None


def printable(name: str) -> str:
    """Returns a file's name as text that can be written anywhere; bytes of it that are none become question marks."""
    return name.encode(errors="replace").decode()


def short_names(paths: Sequence[Path]) -> list[str]:
    """Returns the files' names without suffixes and what all have in common, or whole paths where two are alike.

    What they have in common are words between dots: "cup.blended.320" and "cup.gatys.320" are "blended" and "gatys".
    """
    stems = [path.stem for path in paths]
    words = [_POINT.split(stem) for stem in stems]
    while len(words) > 1 and min(map(len, words)) > 1 and len({name[0] for name in words}) == 1:
        words = [name[1:] for name in words]
    while len(words) > 1 and min(map(len, words)) > 1 and len({name[-1] for name in words}) == 1:
        words = [name[:-1] for name in words]
    short = [".".join(name) for name in words]
    return [
        printable(name if stems.count(stem) == 1 else str(path))
        for name, stem, path in zip(short, stems, paths, strict=True)
    ]


def _optional(response: pb.EvaluateResponse, name: str) -> float | None:
    value: float = getattr(response, name)
    return value if response.HasField(name) else None  # type: ignore[arg-type]  # a name of this very message
