"""Steps that ask the host nothing, and what becomes of those that cannot be captured."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import example_scene
import pytest
import torch
from intarsia_server.engine import stepping
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.methods import stages
from intarsia_server.engine.objective import ObjectiveBuilder
from intarsia_server.engine.optimizers import LBFGS, Evaluate, Evaluation, Losses
from intarsia_server.engine.stepping import WARM_UP, GraphedStep, run_steps
from intarsia_server.engine.transfer import encoder_for
from replay import Recording
from torch import Tensor

CPU = torch.device("cpu")


def scene(encoder: Encoder, method: str, *, paper: bool = False) -> tuple[Evaluate, Tensor]:
    """The objective of a method's last stage on the example, and its content image."""
    request = example_scene.request(method, paper=paper)
    inputs = decode_inputs(request, max_pixels=example_scene.MAX_PIXELS)
    builder = ObjectiveBuilder(
        encoder_for(request, encoder), inputs, request.segments, paper=paper, cancelled=lambda: False
    )
    stage = stages(request.parameters, inputs.styled, paper=paper, size=(96, 64))[-1]
    return builder.build(stage.losses, capped=stage.capped), builder.content


def steep(image: Tensor) -> Evaluation:
    """So steep beside its valley that most moves are rejected."""
    far = torch.exp(60 * (image - 1))
    values = (far + 0.01 * (image - 0.5) ** 2).sum()
    return Evaluation((("value", None),), values[None], 60 * far + 0.02 * (image - 0.5))


@pytest.mark.parametrize(
    ("method", "paper"),
    [("single-shot", False), ("single-shot", True), ("masked-gram", False), ("masked-gram", True), ("blended", False)],
)
def test_a_step_replayed_blindly_is_the_step(encoder: Encoder, method: str, paper: bool) -> None:
    """Same operators every step, none of which the host waits for, and all state in place: what a CUDA graph needs."""
    objective, start = scene(encoder, method, paper=paper)
    ours, theirs = LBFGS(start, history=4), LBFGS(start, history=4)
    for _ in range(WARM_UP):
        ours.step(objective)
        theirs.step(objective)
    with Recording() as recording:
        losses = ours.step(objective)
    assert losses.losses == theirs.step(objective).losses
    for _ in range(6):
        recording.replay()
        expected = theirs.step(objective)
        assert losses.values.tolist() == expected.values.tolist()
        assert losses.terms == expected.terms
        assert torch.equal(ours.image, theirs.image)
    assert not torch.equal(ours.image, start)


def test_a_replayed_step_also_rejects_forgets_and_begins_anew() -> None:
    start = torch.tensor([-30.0, 1.2, 0.0], dtype=torch.float64)
    ours, theirs = LBFGS(start, history=3), LBFGS(start, history=3)
    for _ in range(WARM_UP):
        ours.step(steep)
        theirs.step(steep)
    with Recording() as recording:
        losses = ours.step(steep)
    theirs.step(steep)
    totals = []
    for _ in range(150):
        recording.replay()
        totals.append(float(losses.values.sum()))
        assert totals[-1] == theirs.step(steep).total
    assert len(set(totals)) < len(totals), "nothing was rejected"
    assert torch.equal(ours.image, theirs.image)


def test_what_is_reported_is_not_overwritten(encoder: Encoder) -> None:
    objective, start = scene(encoder, "masked-gram")
    optimizer = LBFGS(start, history=4)
    reported = [optimizer.step(objective) for _ in range(4)]
    totals = [losses.total for losses in reported]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


def test_on_a_cpu_steps_are_taken_when_they_are_asked_for(encoder: Encoder) -> None:
    objective, start = scene(encoder, "masked-gram")
    ours, theirs = LBFGS(start, history=4), LBFGS(start, history=4)
    steps = run_steps(ours, objective, 5)
    for taken in steps:
        assert taken.losses.losses == theirs.step(objective).losses
        assert taken.ahead is None
        assert torch.equal(ours.image, theirs.image)


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.recording = Recording()
        self.replays = 0

    def replay(self) -> None:
        # A real capture runs nothing; this one ran the step it recorded.
        self.replays += 1
        if self.replays > 1:
            self.recording.replay()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Every graph made, on a machine that has no GPU."""
    made: list[Graph] = []

    def new() -> Graph:
        made.append(Graph())
        return made[-1]

    @contextlib.contextmanager
    def capture(graph: Graph, **options: object) -> Iterator[None]:
        assert options == {"capture_error_mode": "thread_local"}
        with graph.recording:
            yield

    nothing = {"device": 1, "stream": 1, "current_stream": 0, "synchronize": 1, "empty_cache": 0}
    for name in nothing:
        monkeypatch.setattr(torch.cuda, name, lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", new)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return made


def test_a_graph_is_captured_once_and_replayed(encoder: Encoder, graphs: list[Graph]) -> None:
    objective, start = scene(encoder, "masked-gram")
    ours, theirs = LBFGS(start, history=4), LBFGS(start, history=4)
    step = GraphedStep(lambda: ours.step(objective), CPU)
    for number in range(1, 8):
        assert step().values.tolist() == theirs.step(objective).values.tolist()
        assert step.captured == (number > WARM_UP)
    assert torch.equal(ours.image, theirs.image)
    (graph,) = graphs
    assert graph.replays == 7 - WARM_UP
    step.release()
    assert not step.captured


def test_what_cannot_be_captured_runs_as_it_is(graphs: list[Graph], caplog: pytest.LogCaptureFixture) -> None:
    def asks(image: Tensor) -> Evaluation:
        scale = image.square().sum().item()
        return Evaluation((("value", None),), image.square().sum()[None], 2 * image * (1 if scale >= 0 else 0))

    start = torch.linspace(1, 2, 6)
    ours, theirs = LBFGS(start, history=4), LBFGS(start, history=4)
    step = GraphedStep(lambda: ours.step(asks), CPU)
    with caplog.at_level(logging.WARNING):
        for _ in range(WARM_UP + 3):
            assert step().values.tolist() == theirs.step(asks).values.tolist()
    assert not step.captured
    assert len(graphs) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without a CUDA graph" in caplog.text
    step.release()


@dataclass
class OnGpu:
    """An optimizer whose image says that it is on a GPU."""

    optimizer: LBFGS

    @property
    def image(self) -> Any:
        return SimpleNamespace(is_cuda=True, device=CPU)

    def step(self, evaluate: Evaluate) -> Losses:
        return self.optimizer.step(evaluate)


@pytest.mark.parametrize("after", [1, 2, 4, 5, 6])
def test_taken_up_again_with_a_step_ahead(
    after: int, encoder: Encoder, graphs: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs included: what is loaded before the first step is what the graph goes on from."""

    def copied(losses: Losses, device: torch.device) -> Callable[[], Losses]:
        copy = Losses(losses.terms, losses.values.clone())
        return lambda: copy

    monkeypatch.setattr(stepping, "_copied", copied)
    objective, start = scene(encoder, "masked-gram")
    theirs = LBFGS(start, history=3)
    expected = [theirs.step(objective).losses for _ in range(7)]

    cut = LBFGS(start, history=3)
    steps = run_steps(OnGpu(cut), objective, 7)  # type: ignore[arg-type]
    for number in range(after):
        taken = next(steps)
        assert taken.losses.losses == expected[number]
    assert taken.ahead is not None
    ahead = Losses(taken.losses.terms, taken.ahead().values.clone())
    state = {name: tensor.clone() for name, tensor in cut.state.items()}
    steps.close()

    ours = LBFGS(start, history=3)
    ours.load(state)
    again = [taken.losses.losses for taken in run_steps(OnGpu(ours), objective, 7 - after, ahead)]  # type: ignore[arg-type]
    assert again == expected[after:]
    assert torch.equal(ours.image, theirs.image)
