"""The benchmark's table, JSON and plot, and its command."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bench import __main__ as command
from bench import demo
from bench.options import Options
from bench.report import Curve, Figure, Panel, Report, read_reports, table

FASTER = Figure(name="faster", goal=5, measured=5.5, unit="x", at_least=True)
SLOWER = Figure(name="slower", goal=5, measured=4.5, unit="x", at_least=True)
WITHIN = Figure(name="within", goal=60, measured=60, unit="s")
BEYOND = Figure(name="beyond", goal=1.05, measured=1.06)
NEVER = Figure(name="never", goal=5, measured=None, unit="x", at_least=True)
PANEL = Panel(
    title="both",
    target=2.0,
    curves=[Curve(name=name, seconds=[0.1, 1.0, 9.0], objectives=[9.0, 4.0, 2.0]) for name in ("one", "other")],
)


def test_every_figure_stands_beside_its_goal() -> None:
    reports = [Report(name="a", figures=(FASTER, SLOWER), facts={}), Report(name="b", figures=(WITHIN,), facts={})]
    assert table([*reports, Report(name="c", figures=(BEYOND, NEVER), facts={})]).splitlines() == [
        "| figure | goal | measured | reached |",
        "|---|---|---|---|",
        "| faster | >= 5x | 5.5x | PASS |",
        "| slower | >= 5x | 4.5x | missed |",
        "| within | <= 60 s | 60 s | PASS |",
        "| beyond | <= 1.05 | 1.06 | missed |",
        "| never | >= 5x | not reached | missed |",
    ]


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    reports = [
        Report(name="a", figures=[FASTER, NEVER], facts={"samples": [1.5, 2.0]}, panel=PANEL),
        Report(name="b", figures=[WITHIN], facts={}),
    ]
    for report in reversed(reports):
        report.write(tmp_path)
    assert read_reports(tmp_path) == reports


def test_the_command_sums_up_all_that_has_been_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Options] = []

    def part(options: Options):
        asked.append(options)
        yield Report(name="new", figures=[FASTER], facts={}, panel=PANEL)

    monkeypatch.setattr(command, "PARTS", {"new": part, "unasked": None})
    Report(name="earlier", figures=[BEYOND], facts={}).write(tmp_path)

    command.main(["new", "--size", "96", "--rounds", "2", "--full", "--out", str(tmp_path)])

    assert asked == [Options(size=96, steps=None, rounds=2, full=True, out=tmp_path)]
    written = (tmp_path / "table.md").read_text()
    assert [line.split(" | ")[0] for line in written.splitlines()[2:]] == ["| beyond", "| faster"]
    assert capsys.readouterr().out == written
    with Image.open(tmp_path / "losses.png") as plot:
        assert plot.width > plot.height > 300


@pytest.mark.parametrize("arguments", [["nonsense"], ["step", "--size", "0"], ["step", "--size", "16"]])
def test_the_command_refuses_what_it_cannot_do(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ending:
        command.main([*arguments, "--out", str(tmp_path)])
    assert ending.value.code == 2
    assert not list(tmp_path.iterdir())


def test_the_demo_tells_the_seconds_of_each_method() -> None:
    shown = "Attempt 1: sequential\n  12%\nAttempt 1: sequential took 12.3 s\nOurs: blended took 4.0 s\n"
    assert demo.method_seconds(shown) == {"sequential": 12.3, "blended": 4.0}
