"""What the quality table says of one picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from intarsia.v1 import style_transfer_pb2 as pb


@dataclass(frozen=True)
class Figures:
    """One method's result on one set, as docs/evaluation.md defines the figures; `worst` is the largest margin."""

    seam: float
    transition: float
    palette: float
    margin: float
    worst: float
    content: float
    structure: float

    @classmethod
    def of(cls, found: pb.EvaluateResponse) -> Figures:
        """Those of an evaluation."""
        return cls(
            seam=found.seam.value,
            transition=found.transition,
            palette=found.palette,
            margin=found.style_margin,
            worst=max(margin.margin for margin in found.margins),
            content=found.content,
            structure=found.structure,
        )

    def as_dict(self) -> dict[str, float]:
        """By name, for JSON."""
        return asdict(self)


Table = dict[str, dict[str, Figures]]
"""Figures by set and method."""
