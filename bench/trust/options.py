"""What a part can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.options import OUT


@dataclass(frozen=True, kw_only=True)
class Options:
    """Numbers that replace the goals' own.

    Attributes:
        requests: fuzzed requests.
        pictures: mutated pictures.
        seed: of whatever is drawn.
        out: folder to write to.
    """

    requests: int = 100_000
    pictures: int = 20_000
    seed: int = 0
    out: Path = OUT / "trust"
