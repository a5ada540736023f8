"""Short forms of the parts about too much to do: what is counted, on real servers; how fast it was is not asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.trust import overload
from bench.trust.fairness import OFFERS, fairness, report_of
from bench.trust.options import Options


@pytest.mark.parametrize("large_callers", [0, 2])
def test_overload(large_callers: int) -> None:
    answers = overload.overload(3, large_callers=large_callers, seed=0)
    assert answers.defects == []
    assert answers.refused
    assert answers.finished == len(answers.accepted) == answers.statuses["OK"] > 0
    assert len(answers.refused) == answers.statuses["RESOURCE_EXHAUSTED"] == answers.statuses.total() - answers.finished


def test_reports_of_an_overload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = overload.Answers(refused=[0.01] * 98 + [0.2, 0.3], finished=3)
    answers.defects.append("refused with UNKNOWN: no message, without a hint")
    monkeypatch.setattr(overload, "overload", lambda *_, **__: answers)
    for report in overload.run(Options()):
        assert [figure.reached for figure in report.figures] == [False, False, True]
        report.write(tmp_path)
    facts = json.loads((tmp_path / "parts" / "overload-large.json").read_text())["facts"]
    assert (facts["refusals p50"], facts["refusals max"]) == (0.01, 0.3)
    assert not overload.report_of("overload", overload.Answers()).figures[0].reached


def test_fairness() -> None:
    finished = fairness(5)
    assert min(finished[name] for name in OFFERS) > 0
    # Of equal turns, chance decides one at the beginning and one at the end.
    assert abs(finished["greedy"] - finished["modest"]) <= 2 + 0.2 * min(finished.values())
    (figure,) = report_of(finished).figures
    assert figure.measured is not None
    assert not report_of(finished | {"modest": 0}).figures[0].reached
