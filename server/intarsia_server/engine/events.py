"""What a transfer yields. No torch here: the front process knows these too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from intarsia_server.engine.images import Pixels

Warnings = tuple[tuple[str, str], ...]
"""What had to be worked around, as (code, message)."""

LossValue = tuple[str, int | None, float]
"""Name, segment (None: whole picture) and weighted value of a loss."""


@dataclass(frozen=True)
class StageStarted:
    """A stage begins; `index` counts from 0."""

    stage: str
    index: int
    stage_count: int
    steps: int


@dataclass(frozen=True)
class StepDone:
    """One step is done; `image` gives the picture as it is now; `converged` says that the stage ends with it."""

    stage: str
    step: int
    steps: int
    losses: tuple[LossValue, ...]
    total: float
    fraction: float
    image: Callable[[], Pixels]
    converged: bool = False


@dataclass(frozen=True)
class StageDone:
    """A stage has ended with these losses, after that many steps and seconds."""

    stage: str
    steps: int
    seconds: float
    losses: tuple[LossValue, ...]
    total: float
    converged: bool = False


@dataclass(frozen=True)
class TransferWarning:
    """Something was worked around; `code` is stable."""

    code: str
    message: str


TransferEvent = StageStarted | StepDone | StageDone | TransferWarning
