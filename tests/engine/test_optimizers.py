"""The step optimisers on functions whose minimum is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from intarsia_server.engine.optimizers import LBFGS, Adam, Evaluation
from torch import Tensor

Function = Callable[[Tensor], Tensor]


class Counted:
    """An objective made of a function, that counts its evaluations."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self.count = 0

    def __call__(self, image: Tensor) -> Evaluation:
        self.count += 1
        image = image.detach().requires_grad_()
        value = self._function(image)
        (gradient,) = torch.autograd.grad(value, image)
        return Evaluation((("value", None),), value.detach()[None], gradient)


def run(function: Function, start: Tensor, steps: int, *, history: int = 10) -> tuple[LBFGS, list[float]]:
    """Optimises, and checks what holds for any objective: one evaluation a step, no rise, and what is reported."""
    objective = Counted(function)
    optimizer = LBFGS(start, history=history)
    untouched = start.clone()
    reported = []
    for step in range(1, steps + 1):
        evaluation = optimizer.step(objective)
        assert objective.count == step
        assert evaluation.total == pytest.approx(float(function(optimizer.image)), rel=1e-6, abs=1e-30)
        assert torch.isfinite(optimizer.image).all()
        reported.append(evaluation.total)
    assert all(after <= before for before, after in pairwise(reported))
    assert torch.equal(start, untouched)
    return optimizer, reported


def quadratic(x: Tensor) -> Tensor:
    """Condition number 1e6, minimum 0 at 1."""
    return (torch.logspace(-3, 3, x.numel(), dtype=x.dtype) * (x.flatten() - 1) ** 2).sum()


def rosenbrock(x: Tensor) -> Tensor:
    x = x.flatten()
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_reaches_the_minimum_of_an_ill_conditioned_quadratic() -> None:
    optimizer, reported = run(quadratic, torch.zeros(1, 1, 3, 4, dtype=torch.float64), 800)
    assert reported[-1] < 1e-8 * reported[0]
    torch.testing.assert_close(optimizer.image, torch.ones(1, 1, 3, 4).double(), rtol=0, atol=0.05)


@pytest.mark.parametrize("size", [2, 8])
def test_reaches_the_minimum_of_rosenbrock(size: int) -> None:
    start = torch.tensor([-1.2, 1.0] * (size // 2), dtype=torch.float64).reshape(1, 1, 1, size)
    optimizer, reported = run(rosenbrock, start, 400)
    assert reported[-1] < 1e-10
    torch.testing.assert_close(optimizer.image, torch.ones_like(start), rtol=0, atol=1e-4)


def test_history_of_one_pair() -> None:
    _, reported = run(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), 600, history=1)
    assert reported[-1] < 1e-6


def test_outdoes_steepest_descent() -> None:
    start = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    curvature = torch.logspace(-3, 3, 12, dtype=torch.float64).reshape(start.shape)
    descent = start.clone()
    for _ in range(60):
        descent -= 2 * curvature * (descent - 1) / (2 * curvature.max())
    assert run(quadratic, start, 60)[1][-1] < 0.1 * float(quadratic(descent))


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
def test_scale_of_the_objective_does_not_matter(scale: float) -> None:
    _, reported = run(lambda x: scale * rosenbrock(x), torch.tensor([-1.2, 1.0], dtype=torch.float64), 300)
    assert reported[-1] < 1e-10 * scale


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_survives_an_objective_that_is_not_finite_somewhere(beyond: float) -> None:
    """The minimum lies just inside the wall, and the first trials beyond it."""

    def walled(x: Tensor) -> Tensor:
        inside = bool((x.abs() < 1.001).all())
        return ((x - 1) ** 2).sum() if inside else x.sum() * beyond

    optimizer, reported = run(walled, torch.full((4,), 0.99, dtype=torch.float64), 60)
    assert reported[-1] < 1e-6 * reported[0]
    torch.testing.assert_close(optimizer.image, torch.ones(4).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("curvature", [1e-10, 1e10])
def test_survives_a_first_step_of_wildly_wrong_length(curvature: float) -> None:
    start = torch.full((1, 1, 2, 2), 1.0 if curvature < 1 else 1e-6, dtype=torch.float64)
    _, reported = run(lambda x: curvature * x.square().sum(), start, 60)
    assert reported[-1] < 1e-9 * reported[0]


def test_survives_a_cliff() -> None:
    """Smooth, but so steep beside the valley that curvature learnt there is wrong by orders of magnitude."""

    def cliff(x: Tensor) -> Tensor:
        return (torch.exp(60 * (x - 1)) + 0.01 * (x - 0.5) ** 2).sum()

    _, reported = run(cliff, torch.tensor([-30.0, 1.2, 0.0], dtype=torch.float64), 200)
    best = min(float(cliff(torch.full((3,), v, dtype=torch.float64))) for v in torch.linspace(0, 1, 1001).tolist())
    assert reported[-1] == pytest.approx(best, rel=1e-2)


def test_stays_at_the_start_when_there_is_no_slope() -> None:
    start = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    optimizer, reported = run(lambda x: (0 * x).sum() + 7, start, 8)
    assert torch.equal(optimizer.image, start)
    assert reported == [7.0] * 8


def test_stays_at_the_minimum() -> None:
    start = torch.ones(1, 1, 2, 2)
    optimizer, _ = run(quadratic, start, 5)
    assert torch.equal(optimizer.image, start)


def test_non_convex_objective_falls() -> None:
    """Negative curvature along the way must not turn the direction uphill."""
    _, reported = run(lambda x: (torch.sin(3 * x) + 0.1 * x**2).sum(), torch.linspace(-4, 4, 50).double(), 100)
    assert reported[-1] < reported[0] - 30


def test_adam_is_torchs() -> None:
    start = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    objective = Counted(rosenbrock)
    ours = Adam(start, learning_rate=0.03)
    image = start.clone().requires_grad_()
    theirs = torch.optim.Adam([image], lr=0.03)
    for step in range(1, 21):
        theirs.zero_grad()
        value = rosenbrock(image)
        value.backward()
        evaluation = ours.step(objective)
        assert objective.count == step
        assert evaluation.total == float(value.detach())
        theirs.step()
        assert torch.equal(ours.image, image.detach())
    assert not torch.equal(ours.image, start)
