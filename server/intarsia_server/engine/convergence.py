"""When an objective has fallen as far as it is worth waiting for."""

from __future__ import annotations

from collections.abc import Iterable

WINDOW = 0.25
"""Share of a stage's steps over which its objective has to be flat. Counted in steps of the stage itself, so that an
optimizer that is ten times slower, and falls a tenth as much with each step, is not taken for one that is done."""

MIN_WINDOW = 20
"""Steps. L-BFGS reports no fall at all while it rejects trials, a few in a row."""

TOLERANCE = 0.01
"""Relative change of the objective that counts as flat (docs/methods.md has the experiment)."""


class Convergence:
    """Tells from one stage's totals, whatever their scale, when it has converged.

    It has when the lowest total before the window, of the window's first half and of its second half lie within
    `TOLERANCE`. For totals that never rise, as L-BFGS's, that is the fall over the window. Adam's rise at times: on the
    way up, and on the way down again, one half is well away from the other or from what was reached before.

    Args:
        totals: of the stage's steps so far.
    """

    def __init__(self, totals: Iterable[float] = ()) -> None:
        self._totals = [*totals]

    @property
    def totals(self) -> tuple[float, ...]:
        """Of the steps so far."""
        return tuple(self._totals)

    def reached(self, total: float) -> bool:
        """Takes the next step's total, 0 or more, and says whether the stage has converged with it."""
        self._totals.append(total)
        window = max(MIN_WINDOW, int(WINDOW * len(self._totals)))
        half = window // 2
        before, first, second = self._totals[:-window], self._totals[-window:-half], self._totals[-half:]
        if not before:
            return False
        lowest = (min(before), min(first), min(second))
        return max(lowest) - min(lowest) <= TOLERANCE * min(before)
