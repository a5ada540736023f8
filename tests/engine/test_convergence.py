"""When a stage ends because its objective has converged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import example_scene
import numpy as np
import pytest
from intarsia_server.engine.convergence import MIN_WINDOW, Convergence
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.parameters import CONVERGED_STEPS, METHODS, resolve
from intarsia_server.engine.request import Optimizer, Start, TransferRequest, Until
from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.engine.transfer import describe, transfer

LONG = 2000


def end(totals: Iterable[float]) -> int | None:
    """The step with which a stage of these totals ends; None: it does not."""
    convergence = Convergence()
    return next((step for step, total in enumerate(totals, 1) if convergence.reached(total)), None)


def levelling(rate: float, *, scale: float = 1.0) -> list[float]:
    """Falls from 10 to 1, a part of what is left with each step."""
    return [scale * (1 + 9 * math.exp(-rate * step)) for step in range(LONG)]


@pytest.mark.parametrize("rate", [0.3, 0.05, 0.01])
def test_ends_near_the_bottom_whatever_the_pace(rate: float) -> None:
    totals = levelling(rate)
    step = end(totals)
    assert step is not None
    assert totals[step - 1] < 1.01
    assert step < 10 / rate + 2 * MIN_WINDOW


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_does_not_matter(scale: float) -> None:
    assert end(levelling(0.05, scale=scale)) == end(levelling(0.05))


@pytest.mark.parametrize("power", [-0.1, -0.3, -1.0])
def test_a_slow_but_lasting_fall_has_not_converged(power: float) -> None:
    """Each step's fall is ever smaller, but the loss is not near a bottom: it has none."""
    totals = [step**power for step in range(1, LONG)]
    assert end(totals) is None


def test_rejected_trials_are_not_a_bottom() -> None:
    """L-BFGS reports no fall while it rejects: here 8 steps of 9; each ninth falls by a tenth."""
    totals = [total for total in (0.9**n for n in range(60)) for _ in range(9)]
    assert end(totals) is None


def test_nothing_to_gain_ends_soon() -> None:
    assert end([7.0] * LONG) == MIN_WINDOW + 1
    assert end([0.0] * LONG) == MIN_WINDOW + 1


def test_a_hill_is_climbed_and_left_behind() -> None:
    """Adam's first moves can be too large: the loss rises to twice its value, and falls below it later."""
    hill = [1 + math.sin(math.pi * step / 100) if step < 100 else 1.0 for step in range(200)]
    totals = [height * (0.2 + 0.8 * math.exp(-step / 100)) for step, height in enumerate(hill)]
    totals += [totals[-1]] * 300
    step = end(totals)
    assert step is not None
    assert step > 200


@pytest.mark.parametrize("seed", range(5))
def test_noise_about_a_bottom_is_convergence(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(1, 0.005, LONG)
    totals = [float(total) for total in np.array(levelling(0.05)) * noise]
    step = end(totals)
    assert step is not None
    assert min(totals[:step]) < 1.02
    assert step < 500


@pytest.mark.parametrize("method", METHODS)
def test_most_steps(method: str) -> None:
    def resolved(explicit: dict[str, int], *, paper: bool = False, until_converged: bool = True) -> dict[str, object]:
        made = resolve(method, explicit, paper=paper, segment_count=3, prefix=method, until_converged=until_converged)
        return vars(made)

    default = resolved({}, until_converged=False)
    assert resolved({}) == default | {"steps": CONVERGED_STEPS}
    assert resolved({"steps": 7}) == default | {"steps": 7}
    if method != "blended":
        assert resolved({}, paper=True) == resolved({}, paper=True, until_converged=False)


def stages_of(request: TransferRequest, encoder: Encoder) -> tuple[list[list[StepDone]], list[StageDone], np.ndarray]:
    """Steps by stage, how each stage ended, and the result."""
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
    steps: list[list[StepDone]] = []
    done: list[StageDone] = []
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            return steps, done, stop.value
        match event:
            case StageStarted():
                steps.append([])
            case StepDone():
                steps[-1].append(event)
            case StageDone():
                done.append(event)


def test_a_stage_ends_early_and_near_a_long_run(encoder: Encoder) -> None:
    def request(steps: int, until: Until) -> TransferRequest:
        knobs = {"steps": steps}
        return example_scene.request("single-shot", knobs, size=(64, 48), start=Start.NOISE, until=until)

    ((*_, last),), (done,), result = stages_of(request(400, Until.CONVERGED), encoder)
    assert last.converged
    assert done.converged
    assert last.step == done.steps < 200
    ((*_, longer),), _, expected = stages_of(request(2 * last.step, Until.STEPS), encoder)
    assert not longer.converged
    assert last.total < 1.02 * longer.total
    assert np.abs(result.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("optimizer", Optimizer)
def test_stages_that_have_nothing_to_do(optimizer: Optimizer, encoder: Encoder) -> None:
    """Content alone, started from: all but the smoothing end at once, and the job's fraction leaps to their ends."""
    knobs = {"steps": 100, "smoothing_steps": 4, "style_weight": 0.0}
    request = example_scene.request(
        "sequential", knobs, size=(64, 48), optimizer=optimizer, start=Start.CONTENT, until=Until.CONVERGED
    )
    steps, done, _ = stages_of(request, encoder)
    assert [stage.converged for stage in done] == [True, True, True, False]
    assert [stage.steps for stage in done] == [len(of_stage) for of_stage in steps]
    assert [stage.steps for stage in done] == [MIN_WINDOW + 1] * 3 + [4]
    assert [of_stage[-1].fraction for of_stage in steps] == pytest.approx([100 / 304, 200 / 304, 300 / 304, 1])
    fractions = [step.fraction for of_stage in steps for step in of_stage]
    assert all(earlier < later for earlier, later in itertools.pairwise(fractions))
    assert all(step.steps == 100 for of_stage in steps[:3] for step in of_stage)
    assert not any(step.converged for of_stage in steps for step in of_stage[:-1])


def test_steps_hold_where_nothing_has_converged(encoder: Encoder) -> None:
    request = example_scene.request("gatys", {"steps": 25}, size=(64, 48), until=Until.CONVERGED)
    _, (done,), _ = stages_of(request, encoder)
    assert (done.steps, done.converged) == (25, False)


def test_without_it_no_stage_ends_early(encoder: Encoder) -> None:
    request = example_scene.request(
        "gatys", {"steps": 30, "style_weight": 0.0, "tv_weight": 0.0}, size=(64, 48), until=Until.STEPS
    )
    _, (done,), _ = stages_of(request, encoder)
    assert (done.steps, done.converged) == (30, False)


def test_text_chunks_say_so() -> None:
    for until in Until:
        text = describe(example_scene.request("gatys", until=until), {"intarsia": "1"})["intarsia"]
        assert f'"until": "{until}"' in text
