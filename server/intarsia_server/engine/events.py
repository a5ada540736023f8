"""What a transfer yields. No torch at run time here: the front process knows these too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from intarsia_server.engine.images import Pixels
from intarsia_server.engine.stages import LossValue, StageDone, StageStarted

if TYPE_CHECKING:
    from torch import Tensor

    from intarsia_server.engine.checkpoint import Checkpoint

Warnings = tuple[tuple[str, str], ...]
"""What had to be worked around, as (code, message)."""


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
class TransferWarning:
    """Something was worked around; `code` is stable."""

    code: str
    message: str


TransferEvent = StageStarted | StepDone | StageDone | TransferWarning
