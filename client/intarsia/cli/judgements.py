"""Judged pictures: what `intarsia evaluate` shows, whatever form it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["FIGURES", "Figure", "Judgement", "best", "margin_of", "number", "short_names"]


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
    Figure("style margin", "under 1 is right, smaller is better", lambda r: _optional(r, "style_margin")),
    Figure("seam", "1 is invisible", lambda r: r.seam.value if r.HasField("seam") else None),
    Figure("transition", "1 is a cut, smaller flows", lambda r: _optional(r, "transition")),
    Figure("palette", "smaller: colours nearer at borders", lambda r: _optional(r, "palette")),
    Figure("content", "smaller is nearer to the content image", lambda r: r.content),
    Figure("structure", "1 keeps every edge", lambda r: r.structure, larger_is_better=True),
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


def short_names(paths: Sequence[Path]) -> list[str]:
    """Returns the files' names without suffixes, or whole paths where two would be alike."""
    stems = [path.stem for path in paths]
    return [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]


def _optional(response: pb.EvaluateResponse, name: str) -> float | None:
    value: float = getattr(response, name)
    return value if response.HasField(name) else None  # type: ignore[arg-type]  # a name of this very message
