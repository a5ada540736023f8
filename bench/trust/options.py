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
        kills: clients that are killed.
        rounds: jobs with watchers, and as many without.
        watchers: of one job; a tenth of them slow.
        seed: of whatever is drawn.
        out: folder to write to.
    """

    requests: int = 100_000
    pictures: int = 20_000
    kills: int = 20
    rounds: int = 5
    watchers: int = 200
    seed: int = 0
    out: Path = OUT / "trust"
