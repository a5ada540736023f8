"""Optimisers that do one evaluation of objective and gradient per step, so that a job can be watched and cancelled."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Evaluation(NamedTuple):
    """Objective at an image: its value, its gradient (the image's shape) and each weighted loss by (name, segment)."""

    total: float
    gradient: Tensor
    losses: tuple[tuple[str, int | None, float], ...]


Evaluate = Callable[[Tensor], Evaluation]


class StepOptimizer(Protocol):
    """One stage's optimiser."""

    @property
    def image(self) -> Tensor:
        """The best image so far (L-BFGS) or the current one (Adam)."""
        ...

    def step(self, evaluate: Evaluate) -> Evaluation:
        """Evaluates the objective once, moves, and returns the evaluation that belongs to the losses to report."""
        ...


class Adam:
    """torch.optim.Adam on the image (Kingma and Ba 2015)."""

    def __init__(self, image: Tensor, *, learning_rate: float) -> None:
        self._image = image.clone()
        self._adam = torch.optim.Adam([self._image], lr=learning_rate)

    @property
    def image(self) -> Tensor:
        """The current image."""
        return self._image

    def step(self, evaluate: Evaluate) -> Evaluation:
        """Evaluates at the current image, then moves it."""
        evaluation = evaluate(self._image)
        self._image.grad = evaluation.gradient
        self._adam.step()
        return evaluation


class LBFGS:
    """Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4) with backtracking, one evaluation per step.

    torch.optim.LBFGS either evaluates several times within a step or has no safeguard at all; a service needs steps
    of one length and an objective that never rises. A trial point that fails the Armijo condition is rejected and the
    next step tries a shorter move from the same place; after several rejections the history is dropped.
    """

    _ARMIJO = 1e-4
    _FIRST_MOVE = 0.05
    """Root mean square change of the first trial, in units of the encoder's normalised space."""
    _PATIENCE = 5

    def __init__(self, image: Tensor, *, history: int) -> None:
        self._image = image.clone()
        self._accepted: Evaluation | None = None
        self._pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=history)
        self._direction = torch.zeros_like(image)
        self._slope = 0.0
        self._length = 0.0
        self._rejections = 0

    @property
    def image(self) -> Tensor:
        """The best image so far."""
        return self._image

    def step(self, evaluate: Evaluate) -> Evaluation:
        """Tries one move; returns the evaluation of the best image so far, so that the reported loss never rises."""
        if self._accepted is None:
            self._accepted = evaluate(self._image)
            self._aim(self._accepted)
            return self._accepted
        trial = self._image + self._length * self._direction
        evaluation = evaluate(trial)
        if evaluation.total <= self._accepted.total + self._ARMIJO * self._length * self._slope:
            self._learn(trial, evaluation)
            self._image, self._accepted = trial, evaluation
            self._rejections = 0
            self._aim(evaluation)
        else:
            self._reject(evaluation.total)
        return self._accepted

    def _learn(self, trial: Tensor, evaluation: Evaluation) -> None:
        assert self._accepted is not None
        move = trial - self._image
        change = evaluation.gradient - self._accepted.gradient
        curvature = _dot(move, change)
        # Without positive curvature the pair would make the next direction point uphill. Relative to both vectors, so
        # that the objective's scale, which in the paper's is 1e12, does not matter.
        if curvature > 1e-10 * math.sqrt(_dot(move, move)) * math.sqrt(_dot(change, change)):
            self._pairs.append((move, change, 1.0 / curvature))

    def _aim(self, evaluation: Evaluation) -> None:
        """Two-loop recursion; falls back to steepest descent when the result does not point downhill."""
        direction = -evaluation.gradient
        if self._pairs:
            weights = []
            for move, change, rho in reversed(self._pairs):
                weight = rho * _dot(move, direction)
                weights.append(weight)
                direction.sub_(change, alpha=weight)
            move, change, rho = self._pairs[-1]
            direction.mul_(1.0 / (rho * _dot(change, change)))
            for (move, change, rho), weight in zip(self._pairs, reversed(weights), strict=True):
                direction.add_(move, alpha=weight - rho * _dot(change, direction))
        slope = _dot(direction, evaluation.gradient)
        if self._pairs and not (math.isfinite(slope) and slope < 0):
            self._pairs.clear()
            self._aim(evaluation)
            return
        self._direction, self._slope = direction, slope
        self._length = 1.0 if self._pairs else self._first_length()

    def _first_length(self) -> float:
        norm = math.sqrt(_dot(self._direction, self._direction))
        return self._FIRST_MOVE * math.sqrt(self._direction.numel()) / norm if norm > 0 else 0.0

    def _reject(self, total: float) -> None:
        assert self._accepted is not None
        self._rejections += 1
        if self._rejections >= self._PATIENCE and self._pairs:
            self._pairs.clear()
            self._rejections = 0
            self._aim(self._accepted)
            return
        rise = total - self._accepted.total - self._length * self._slope
        # The minimum of the parabola through both values and the slope, kept within [0.1, 0.5] of the failed move.
        factor = -self._slope * self._length / (2 * rise) if math.isfinite(rise) and rise > 0 else 0.1
        self._length *= min(0.5, max(0.1, factor))


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
