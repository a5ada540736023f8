"""What a part of the benchmark reports: figures beside their goals, facts, curves; as JSON and as one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from intarsia.files import write_atomically

FOLDER = "parts"
"""Of the parts' JSON within the benchmark's output, apart from references and pictures."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured figure and the goal that it is held to.

    Attributes:
        name: what was measured.
        goal: the bound.
        measured: None where there is nothing to measure, because an objective was not reached.
        unit: "x" for times as fast, "s" for seconds, empty for a plain ratio.
        at_least: whether the goal is a lower bound.
    """

    name: str
    goal: float
    measured: float | None
    unit: str = ""
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the measured figure is within the goal."""
        if self.measured is None:
            return False
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One side's objective over time: `objectives[i]` after `seconds[i]` on the clock."""

    name: str
    seconds: Sequence[float]
    objectives: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves of all sides on one objective, and the value that they are timed to."""

    title: str
    target: float
    curves: Sequence[Curve]


@dataclass(frozen=True, kw_only=True)
class Report:
    """One part's outcome.

    Attributes:
        name: of its file.
        figures: rows of the table.
        facts: settings, the machine and every sample, for the JSON.
        panel: its part of the plot.
    """

    name: str
    figures: Sequence[Figure]
    facts: Mapping[str, Any]
    panel: Panel | None = None

    def write(self, out: Path) -> None:
        """Writes OUT/parts/NAME.json."""
        path = out / FOLDER / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


def read_reports(out: Path) -> list[Report]:
    """Every report that has been written there, by name."""
    return [_from_json(json.loads(path.read_text())) for path in sorted((out / FOLDER).glob("*.json"))]


def _from_json(values: dict[str, Any]) -> Report:
    panel = values["panel"]
    if panel is not None:
        panel = Panel(**{**panel, "curves": [Curve(**curve) for curve in panel["curves"]]})
    return Report(**{**values, "figures": [Figure(**figure) for figure in values["figures"]], "panel": panel})


def table(reports: Sequence[Report]) -> str:
    """All figures for people, in Markdown."""
    lines = ["| figure | goal | measured | reached |", "|---|---|---|---|"]
    lines += [_row(figure) for report in reports for figure in report.figures]
    return "\n".join(lines) + "\n"


def _row(figure: Figure) -> str:
    sign = ">=" if figure.at_least else "<="
    measured = "not reached" if figure.measured is None else f"{figure.measured:.4g}{_unit(figure)}"
    verdict = "PASS" if figure.reached else "missed"
    return f"| {figure.name} | {sign} {figure.goal:g}{_unit(figure)} | {measured} | {verdict} |"


def _unit(figure: Figure) -> str:
    return f" {figure.unit}" if figure.unit == "s" else figure.unit
