"""Where a transfer stands, so that it can be taken up again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from intarsia_server.engine.stages import StageDone


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that the rest of a transfer depends on at the border between two steps.

    What follows from the request alone is not in it. One that a transfer gives holds the optimizer's own tensors: it is
    to be read before the next step.

    Attributes:
        earlier: summaries of the stages that came before.
        so_far: the stage's own, as if it ended here.
        ended: whether it does end here.
        totals: the objective at each of its steps, where it ends once they have converged; else none.
        ahead: values of the losses of one more step that the optimizer has taken already, as it does on a GPU.
        composite: what the stages before have made together [1, 3, H, W]; None in the first stage.
        first: the result of the first stage at full size [1, 3, H, W], once there is one.
        optimizer: its state by name, `image` among it; of a stage that has ended the image alone.
    """

    earlier: tuple[StageDone, ...]
    so_far: StageDone
    ended: bool
    totals: tuple[float, ...]
    ahead: tuple[float, ...] | None
    composite: Tensor | None
    first: Tensor | None
    optimizer: Mapping[str, Tensor]
