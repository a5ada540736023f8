"""Where a step's time goes: every operator has its place in the table."""

from __future__ import annotations

import pytest

from bench import anatomy
from bench.options import Options


def test_every_part_of_a_step_is_seen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy, "WARM_UP", 1)
    (report,) = anatomy.run(Options(size=64, rounds=1))

    found = report.facts["milliseconds"]
    assert set(found) == {"single-shot", "masked-gram", "blended"}
    for method, spent in found.items():
        assert set(spent) == {*anatomy.PARTS.values(), anatomy.REST}
        assert all(time > 0 for time in spent.values()), method
    printed = capsys.readouterr().out
    assert "| convolutions | " in printed
    assert "| **in all** | **" in printed
