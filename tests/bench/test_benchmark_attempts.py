"""The benchmark of Attempts 2 and 3: arithmetic, the judge, and what is kept of the published procedure."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from intarsia_server.engine.inputs import decode_inputs

from bench import attempt2, attempt3, engine
from bench.example import MAX_PIXELS, example_request, example_weights, new_encoder
from bench.options import Options
from bench.published import Published, Schedule
from bench.quality.figures import Figures
from bench.reference import attempt_3_judge, attempt_3_reference, fingerprint, load, save

SIZE = 64


def test_attempt_3_is_timed_to_the_published_objective(tmp_path: Path) -> None:
    (report,) = attempt3.run(Options(size=SIZE, steps=3, rounds=2, out=tmp_path))

    (figure,) = report.figures
    facts = report.facts
    assert figure.name == "Attempt 3, time to the published objective, 43x64"
    assert (figure.goal, figure.at_least) == (200, True)
    samples, times = facts["published"]["step_samples"], facts["intarsia"]["samples"]
    assert (len(samples), len(times)) == (2, 3)
    assert facts["published"]["seconds"] == pytest.approx(3 * statistics.median(samples))
    assert figure.measured == pytest.approx(3 * statistics.median(samples) / statistics.median(times))
    assert facts["reference"]["made_by"] == "engine"
    assert report.panel is not None
    theirs, ours = report.panel.curves
    assert len(theirs.objectives) == 3
    assert ours.objectives[-1] <= report.panel.target == facts["reference"]["objective"]
    assert facts["intarsia"]["race"]["steps"] >= 1


def test_attempt_3_can_run_the_published_code_to_its_end(tmp_path: Path) -> None:
    (report,) = attempt3.run(Options(size=SIZE, steps=3, full=True, out=tmp_path))

    samples = report.facts["published"]["step_samples"]
    assert report.facts["reference"]["made_by"] == "published"
    assert len(samples) == 3
    assert report.facts["published"]["seconds"] == pytest.approx(sum(samples))
    assert len(report.facts["intarsia"]["samples"]) == 3


def test_the_reference_by_the_published_code_is_its_own_final_objective(tmp_path: Path) -> None:
    found = attempt_3_reference(SIZE, 3, by_published=True, out=tmp_path)

    inputs = decode_inputs(example_request(SIZE), max_pixels=MAX_PIXELS)
    steps = Published(example_weights(), inputs, schedule=Schedule(single_shot=4)).attempt_3()
    totals = [next(steps).total for _ in range(4)]
    # The fourth step's objective is that of the image that three steps have made.
    assert [*found.totals, found.objective] == pytest.approx(totals, rel=1e-4)
    assert (found.steps, len(found.seconds)) == (3, 3)
    assert attempt_3_reference(SIZE, 3, by_published=False, out=tmp_path) == found


def test_what_is_kept_serves_only_what_it_was_made_of(tmp_path: Path) -> None:
    save(tmp_path, "name", {"pictures": "a", "steps": 3}, {"objective": 1.0})
    assert load(tmp_path, "name", {"pictures": "a", "steps": 3}) == {"objective": 1.0}
    assert load(tmp_path, "name", {"pictures": "b", "steps": 3}) is None
    assert load(tmp_path, "other", {"pictures": "a", "steps": 3}) is None
    small, large = (decode_inputs(example_request(size), max_pixels=MAX_PIXELS) for size in (64, 72))
    assert fingerprint(small) == fingerprint(small) != fingerprint(large)
    assert fingerprint(small) != fingerprint(replace(small, labels=1 - small.labels.clip(0, 1)))


def test_the_judge_sees_the_image_as_it_is_and_not_as_it_is_shown() -> None:
    request = example_request(SIZE, steps=2)
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    *_, last = engine.steps(request, inputs, new_encoder(request))
    exact, shown = last.exact(), last.image()
    assert exact.shape == (1, 3, *shown.shape[:2])
    assert exact.dtype is torch.float32
    judge = attempt_3_judge(inputs)
    assert judge(exact + 5) != judge(exact)  # brighter than any picture that can be shown


def test_attempt_2_counts_every_published_stage() -> None:
    stages = {
        "vanilla": [1.0, 1.0, 9.0],
        "segment 1": [2.0],
        "segment 2": [3.0],
        "smoothing": [4.0],
        "border smoothing": [0.5],
    }
    assert attempt2.published_seconds(stages) == 1000 * (1 + 2 + 3) + 40 * 4 + 200 * 0.5


def test_attempt_2_is_timed_and_judged(tmp_path: Path) -> None:
    (report,) = attempt2.run(Options(size=SIZE, steps=2, rounds=2, full=True, out=tmp_path))

    time, *quality = report.figures
    facts = report.facts
    stages = facts["published"]["step_samples"]
    assert list(stages) == ["vanilla", "segment 1", "segment 2", "smoothing", "border smoothing"]
    assert all(len(samples) == 2 for samples in stages.values())
    expected = facts["published"]["seconds"] / statistics.median(facts["intarsia"]["samples"])
    assert (time.name, time.goal, time.measured) == ("Attempt 2 in full, 43x64", 150, pytest.approx(expected))
    ours, theirs = facts["quality"]["intarsia"], facts["quality"]["published"]
    measured = {figure.name.split()[2]: figure.measured for figure in quality}
    assert measured == {name: pytest.approx(ours[name] / theirs[name]) for name in ours}
    assert (tmp_path / "attempt2-published-43x64.png").is_file()
    assert attempt2.published_quality(SIZE, Options(steps=2, out=tmp_path)) == Figures(**theirs)
    assert attempt2.published_quality(SIZE, Options(steps=3, out=tmp_path)) is None


def test_quality_is_no_worse_in_the_direction_of_each_figure() -> None:
    figures = {
        "seam": 1.0, "transition": 1.0, "palette": 1.0, "margin": 1.0, "worst": 1.0, "content": 1.0, "structure": 0.5,
    }  # fmt: skip
    better = Figures(**{**figures, "seam": 0.9, "structure": 0.6})
    reached = {f.name.split()[2]: f.reached for f in attempt2.quality_figures(better, Figures(**figures))}
    worse = {f.name.split()[2]: f.reached for f in attempt2.quality_figures(Figures(**figures), better)}
    assert all(reached.values())
    assert sorted(name for name, fine in worse.items() if not fine) == ["seam", "structure"]
