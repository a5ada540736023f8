"""A transfer that is taken up again where it was cut off: the same bits as one that never was."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine import transfer as transfer_module
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone, TransferWarning
from intarsia_server.engine.optimizers import LBFGS, Adam, Evaluate, Evaluation, Losses, StepOptimizer
from intarsia_server.engine.request import Optimizer, Start, TransferRequest, Until
from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.engine.stepping import Taken
from intarsia_server.engine.transfer import transfer
from intarsia_server.engine.weights import load_weights

COARSE = (128, 128)
"""Large enough for a coarse stage, at 64 pixels."""

NOTHING_TO_DO = {"steps": 60, "smoothing_steps": 3, "style_weight": 0.0}
ADAM = {"optimizer": Optimizer.ADAM}

CASES: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "gatys": ("gatys", {"steps": 3, "coarse_steps": 2}, {"size": COARSE, "start": Start.NOISE}),
    "gatys, Adam": ("gatys", {"steps": 4}, ADAM),
    "masked-gram, longer than its history": ("masked-gram", {"steps": 9}, {}),
    "masked-gram, capped, Adam": (
        "masked-gram",
        {"steps": 2, "coarse_steps": 2, "capped_gradients": True},
        {"size": COARSE, **ADAM},
    ),
    "sequential": (
        "sequential",
        {"steps": 2, "coarse_steps": 1, "smoothing_steps": 2},
        {"size": COARSE, "start": Start.PALETTE},
    ),
    "sequential of the paper, Adam": (
        "sequential",
        {"steps": 2, "smoothing_steps": 2},
        {"paper": True, "start": Start.NOISE, **ADAM},
    ),
    "sequential, until converged": (
        "sequential",
        NOTHING_TO_DO,
        {"size": (64, 48), "start": Start.CONTENT, "until": Until.CONVERGED},
    ),
    "gatys, until converged, Adam": (
        "gatys",
        {"steps": 60, "style_weight": 0.0},
        {"size": (64, 48), "start": Start.CONTENT, "until": Until.CONVERGED, **ADAM},
    ),
    "sequential-smooth": (
        "sequential-smooth",
        {"steps": 2, "smoothing_steps": 2, "border_steps": 2},
        {"segments": ({}, {"style": None}, {})},
    ),
    "single-shot": ("single-shot", {"steps": 2, "coarse_steps": 2}, {"size": COARSE, "start": Start.PALETTE}),
    "single-shot, Adam": ("single-shot", {"steps": 3}, {"start": Start.NOISE, **ADAM}),
    "blended": (
        "blended",
        {"steps": 3, "coarse_steps": 2, "harmony": 0.5},
        {"size": COARSE, "start": Start.PALETTE, "segments": ({}, {"style": None}, {})},
    ),
}
"""Method, knobs, and the rest of a request."""


@dataclass
class Run:
    """What a transfer did; `steps` with the image after each, `checkpoints` after each."""

    events: list[Any] = field(default_factory=list)
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    summaries: list[tuple[Any, ...]] = field(default_factory=list)
    result: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def warnings(self) -> list[TransferWarning]:
        return [event for event in self.events if isinstance(event, TransferWarning)]


def told(step: StepDone) -> tuple[Any, ...]:
    """All of a step that can be compared."""
    image = step.exact().numpy().tobytes()
    return step.stage, step.step, step.steps, step.losses, step.total, step.fraction, step.converged, image


def said(stage: StageDone) -> tuple[Any, ...]:
    return stage.stage, stage.steps, stage.losses, stage.total, stage.converged


def kept(checkpoint: Checkpoint) -> Checkpoint:
    """What the next step does not touch any more."""
    optimizer = {name: tensor.clone() for name, tensor in checkpoint.optimizer.items()}
    return replace(checkpoint, optimizer=optimizer)


def run(request: TransferRequest, encoder: Encoder, resume: Checkpoint | None = None, *, keep: bool = False) -> Run:
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False, resume=resume)
    found = Run()
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            found.result = stop.value
            return found
        found.events.append(event)
        if isinstance(event, StepDone):
            found.steps.append(told(event))
            if keep:
                found.checkpoints.append(kept(event.checkpoint()))
        elif isinstance(event, StageDone):
            found.summaries.append(said(event))


def assert_same_from(whole: Run, number: int, request: TransferRequest, encoder: Encoder) -> None:
    """Takes the transfer up again after that many of its steps, and compares all that follows."""
    checkpoint = whole.checkpoints[number - 1]
    again = run(request, encoder, checkpoint)
    assert again.steps == whole.steps[number:]
    assert np.array_equal(again.result, whole.result)
    assert [said(stage) for stage in checkpoint.earlier] + again.summaries == whole.summaries
    started = again.events[0]
    assert isinstance(started, StageStarted)
    assert (started.stage, started.index) == (checkpoint.so_far.stage, len(checkpoint.earlier))


def some(whole: Run, most: int = 7) -> list[int]:
    """Numbers of steps, 1 for the first: each stage's first and last among them, and others."""
    ends = itertools.accumulate(len(list(steps)) for _, steps in itertools.groupby(step[0] for step in whole.steps))
    firsts_and_lasts = {number for end in ends for number in (end, end + 1) if number <= len(whole.steps)} | {1}
    others = np.linspace(1, len(whole.steps), most).astype(int).tolist()
    return sorted(firsts_and_lasts | set(others))


@pytest.mark.parametrize("name", CASES)
def test_same_bits_from_any_step(name: str, encoder: Encoder) -> None:
    method, knobs, rest = CASES[name]
    request = example_scene.request(method, knobs, **rest)
    request = replace(request, optimization=replace(request.optimization, history=3))
    whole = run(request, encoder, keep=True)
    for number in some(whole):
        assert_same_from(whole, number, request, encoder)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_same_bits_in_bf16(optimizer: Optimizer) -> None:
    half = Encoder(load_weights("embedded"), device=torch.device("cpu"), precision=torch.bfloat16)
    request = example_scene.request("blended", {"steps": 4}, optimizer=optimizer)
    whole = run(request, half, keep=True)
    for number in (1, 2, 4):
        assert_same_from(whole, number, request, half)


def one_ahead(
    optimizer: StepOptimizer, evaluate: Evaluate, count: int, ahead: Losses | None = None, *, graphed: bool
) -> Generator[Taken, None, None]:
    """Steps as a GPU takes them: the next one is under way before anybody hears of the last."""
    assert graphed
    running = ahead or optimizer.step(evaluate)
    for _ in range(count - 1):
        following = optimizer.step(evaluate)
        yield Taken(running, lambda losses=following: losses)  # type: ignore[misc]
        running = following
    yield Taken(running)


@pytest.mark.parametrize(
    "name",
    ["gatys, until converged, Adam", "masked-gram, longer than its history", "sequential of the paper, Adam"],
)
def test_same_bits_where_steps_are_taken_ahead(name: str, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "run_steps", one_ahead)
    method, knobs, rest = CASES[name]
    request = example_scene.request(method, knobs, **rest)
    whole = run(request, encoder, keep=True)
    assert any(checkpoint.ahead for checkpoint in whole.checkpoints)
    for number in some(whole, 4):
        assert_same_from(whole, number, request, encoder)


def test_each_warning_is_given_once(encoder: Encoder) -> None:
    """The publication's weights, and a segment that is too small to be matched in its own stage."""
    labels = np.zeros((64, 96), np.uint8)
    labels[10, 10] = 2
    labels[30:, :] = 1
    request = example_scene.request(
        "sequential", {"steps": 2, "smoothing_steps": 1}, label_map=labels, start=Start.CONTENT
    )
    whole = run(request, encoder, keep=True)
    assert whole.warnings
    for number in range(1, len(whole.steps) + 1):
        again = run(request, encoder, whole.checkpoints[number - 1])
        before = [event for event in whole.events if isinstance(event, StepDone | TransferWarning)]
        at = [isinstance(event, StepDone) for event in before]
        reached = [index for index, is_step in enumerate(at) if is_step][number - 1]
        later = [event for event in before[reached:] if isinstance(event, TransferWarning)]
        assert again.warnings == later
    paper = example_scene.request("gatys", {"steps": 1}, paper=True)
    published = run(paper, encoder, keep=True)
    assert [warning.code for warning in published.warnings] == ["paper_weights_for_torchvision"]
    assert run(paper, encoder, published.checkpoints[0]).warnings == []


def test_seconds_and_targets_go_on(encoder: Encoder) -> None:
    request = example_scene.request("masked-gram", {"steps": 3})
    whole = run(request, encoder, keep=True)
    checkpoint = whole.checkpoints[0]
    long_ago = replace(checkpoint, so_far=replace(checkpoint.so_far, seconds=1000.0))
    (done,) = [event for event in run(request, encoder, long_ago).events if isinstance(event, StageDone)]
    assert 1000 < done.seconds < 2000
    assert (done.targets, done.cached_targets) == (3, 0)


def test_a_stage_that_has_ended_costs_nothing(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    request = example_scene.request("gatys", {"steps": 2})
    whole = run(request, encoder, keep=True)
    assert [checkpoint.ended for checkpoint in whole.checkpoints] == [False, True]
    assert set(whole.checkpoints[-1].optimizer) == {"image"}

    def build(*_: object, **__: object) -> None:
        raise AssertionError("an objective was built")

    monkeypatch.setattr("intarsia_server.engine.objective.ObjectiveBuilder.build", build)
    again = run(request, encoder, whole.checkpoints[-1])
    assert np.array_equal(again.result, whole.result)


def bowl(image: torch.Tensor) -> Evaluation:
    """A quartic valley: no step is like the one before."""
    scale = torch.linspace(1, 30, image.numel()).view(image.shape)
    values = (scale * (image**4 + image**2)).sum()[None]
    return Evaluation((("value", None),), values, scale * (4 * image**3 + 2 * image))


@pytest.mark.parametrize(
    "make", [lambda image: LBFGS(image, history=3), lambda image: Adam(image, learning_rate=0.1)], ids=["lbfgs", "adam"]
)
@pytest.mark.parametrize("after", [1, 2, 7])
def test_an_optimizer_loads_in_place(make: Callable[[torch.Tensor], StepOptimizer], after: int) -> None:
    """A graph that holds its tensors sees what was loaded; and it does not matter what it had done before."""
    start = torch.linspace(-2, 2, 50)
    theirs, ours, used = make(start), make(torch.zeros(50)), make(torch.zeros(50))
    used.step(bowl)
    used.step(bowl)
    for _ in range(after):
        theirs.step(bowl)
    state = {name: tensor.clone() for name, tensor in theirs.state.items()}
    before = {name: tensor.data_ptr() for name, tensor in used.state.items()}
    used.load(state)
    assert {name: tensor.data_ptr() for name, tensor in used.state.items()} == before
    ours.load(state)
    for _ in range(10):
        expected = theirs.step(bowl).losses
        assert ours.step(bowl).losses == expected
        assert used.step(bowl).losses == expected
    assert torch.equal(ours.image, theirs.image)
    assert torch.equal(used.image, theirs.image)


def test_padding_is_not_kept() -> None:
    optimizer = LBFGS(torch.zeros(50), history=10)
    optimizer.step(bowl)
    assert sum(tensor.numel() for tensor in optimizer.state.values()) < 50 * (2 * 11 + 1 + 2) + 23**2 + 10
