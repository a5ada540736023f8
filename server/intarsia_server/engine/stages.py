"""The beginning and the end of a stage. No torch here: the front process knows these too."""

from __future__ import annotations

from dataclasses import dataclass

LossValue = tuple[str, int | None, float]
"""Name, segment (None: whole picture) and weighted value of a loss."""


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; `index` counts from 0, `share` of the picture's area is what it works on."""

    stage: str
    index: int
    stage_count: int
    steps: int
    share: float = 1.0


@dataclass(frozen=True)
class StageDone:
    """A stage has ended with these losses, after that many steps and seconds.

    `targets` counts the style images (at a size) whose Gram matrices the job first needed here, `cached_targets` those
    of them that an earlier job had computed. A job that was resumed needs those of the stages before once more.
    """

    stage: str
    steps: int
    seconds: float
    losses: tuple[LossValue, ...]
    total: float
    targets: int
    cached_targets: int
    converged: bool = False
