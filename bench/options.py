"""What a part of the benchmark can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Each part has its own sizes and numbers of samples; these replace them.

    Attributes:
        size: longer side in pixels; None: those of the goals.
        steps: of every optimisation, published ones too; None: as published, and the product's defaults. Figures of a
            run with other steps say nothing about the goals; it is for trying the benchmark itself.
        rounds: timed samples of each contender; None: the part's own.
        full: run to the end what is otherwise worked out from a few steps, and make what is missing for that.
        out: folder to write to.
    """

    size: int | None = None
    steps: int | None = None
    rounds: int | None = None
    full: bool = False
    out: Path = OUT
