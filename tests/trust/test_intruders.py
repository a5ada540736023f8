"""Nobody gets in who may not: the part of the trust run as it is."""

from __future__ import annotations

from bench.trust.intruders import run
from bench.trust.options import Options


def test_refused_with_one_line_and_nothing_leaked() -> None:
    (report,) = run(Options())
    assert len(report.figures) == 5
    assert all(figure.reached for figure in report.figures), report.facts
