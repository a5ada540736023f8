"""The operators' benchmark: every contender computes what it is timed for."""

from __future__ import annotations

import pytest
import torch

from bench.maps import SIZES, Case
from bench.ops import GOALS, Row, error, field


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_contenders_agree_with_float64(
    dtype: torch.dtype, bound: float, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIZES, "cpu", (128, 192))
    contenders = list(field(Case(dtype, channels_last=channels_last, device=torch.device("cpu"))))
    assert {name for goal in GOALS for name in (goal.row, goal.over)} <= {each.name for each in contenders}
    for contender in contenders:
        assert error(contender) < bound, contender.name


def test_goals_are_ratios_of_medians() -> None:
    rows = {name: Row(name, (1.0, 9.0, 2.0), 0.0) for goal in GOALS for name in (goal.row, goal.over)}
    for goal in GOALS:
        assert goal.ratio(rows) == 1
        assert goal.reached(rows) == (not goal.at_least)
