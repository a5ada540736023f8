"""What a transfer yields. No torch at run time here: the front process knows these too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intarsia_server.engine.images import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from intarsia_server.engine.checkpoint import Checkpoint

Warnings = tuple[tuple[str, str], ...]
"""What had to be worked around, as (code, message)."""

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
class StepDone:
    """One step is done.

    `image` gives the picture as it is now; `exact` the same as the encoder takes it [1, 3, H, W], neither rounded nor
    clipped, and `checkpoint` all that the rest of the transfer depends on, both to be read before the next step;
    `converged` says that the stage ends with it.
    """

    stage: str
    step: int
    steps: int
    losses: tuple[LossValue, ...]
    total: float
    fraction: float
    image: Callable[[], Pixels]
    exact: Callable[[], Tensor]
    checkpoint: Callable[[], Checkpoint]
    converged: bool = False


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


@dataclass(frozen=True)
class TransferWarning:
    """Something was worked around; `code` is stable."""

    code: str
    message: str


TransferEvent = StageStarted | StepDone | StageDone | TransferWarning
