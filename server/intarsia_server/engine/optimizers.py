"""Optimisers that do one evaluation of objective and gradient per step, so that a job can be watched and cancelled.

All they decide, they decide on the image's device, and their state is tensors written in place: a step asks the host
nothing, and the same calls, in the same order, are every step after the first. So a GPU can take it as one graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Weighted losses at an image.

    Attributes:
        terms: name and segment (None: the whole picture) of each.
        values: theirs [T], on the image's device.
    """

    terms: tuple[tuple[str, int | None], ...]
    values: Tensor

    @cached_property
    def losses(self) -> tuple[tuple[str, int | None, float], ...]:
        """Each loss by (name, segment); waits for the device."""
        return tuple((*term, value) for term, value in zip(self.terms, self.values.tolist(), strict=True))

    @property
    def total(self) -> float:
        """The objective, their sum; waits for the device."""
        return sum(value for *_, value in self.losses)


@dataclass(frozen=True)
class Evaluation(Losses):
    """The losses and their gradient by the image, of its shape."""

    gradient: Tensor


Evaluate = Callable[[Tensor], Evaluation]


class StepOptimizer(Protocol):
    """One stage's optimiser."""

    @property
    def image(self) -> Tensor:
        """The best image so far (L-BFGS) or the current one (Adam)."""
        ...

    def step(self, evaluate: Evaluate) -> Losses:
        """Evaluates the objective once, moves, and returns the losses to report."""
        ...

    @property
    def state(self) -> Mapping[str, Tensor]:
        """All that its next steps depend on, by name: its own tensors, which the next step overwrites.

        There is none before the first step.
        """
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from another's state, of the same image size and options; written in place, as a graph needs it."""
        ...


class Adam:
    """torch.optim.Adam on the image (Kingma and Ba 2015)."""

    def __init__(self, image: Tensor, *, learning_rate: float) -> None:
        self._image = image.clone()
        # On a GPU in one kernel, and with a step count that the host need not know.
        gpu = image.is_cuda
        self._adam = torch.optim.Adam([self._image], lr=learning_rate, fused=gpu or None, capturable=gpu)

    @property
    def image(self) -> Tensor:
        """The current image."""
        return self._image

    def step(self, evaluate: Evaluate) -> Losses:
        """Evaluates at the current image, then moves it."""
        evaluation = evaluate(self._image)
        self._image.grad = evaluation.gradient
        self._adam.step()
        return evaluation

    @property
    def state(self) -> Mapping[str, Tensor]:
        """The image and torch.optim.Adam's moments and step count."""
        return {"image": self._image, **self._adam.state[self._image]}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from another's state."""
        if not self._adam.state[self._image]:
            # As the first step would make them.
            counted_on = self._image.device if self._image.is_cuda else "cpu"
            self._adam.state[self._image] = {
                "step": torch.zeros((), dtype=torch.float32, device=counted_on),
                "exp_avg": torch.zeros_like(self._image),
                "exp_avg_sq": torch.zeros_like(self._image),
            }
        for name, tensor in self.state.items():
            tensor.copy_(state[name])


class LBFGS:
    """Limited-memory BFGS with backtracking, one evaluation per step.

    torch.optim.LBFGS either evaluates several times within a step or has no safeguard at all; a service needs steps
    of one length and an objective that never rises. A trial point that fails the Armijo condition is rejected and the
    next step tries a shorter move from the same place; after several rejections the history is dropped.

    The direction is a linear combination of the history's vectors and the gradient. Its coefficients follow from these
    vectors' inner products alone (compact form: Byrd, Nocedal and Schnabel 1994, theorem 2.2), and a step changes only
    those with two of them: one product of matrices instead of one dot product after the other.
    """

    _ARMIJO = 1e-4
    _FIRST_MOVE = 0.05
    """Root mean square change of the first trial, in units of the encoder's normalised space."""
    _PATIENCE = 5
    _CHUNK = 2**14
    """Elements whose products are summed in the image's own type; sums of chunks are float64."""

    def __init__(self, image: Tensor, *, history: int) -> None:
        self._image = image.clone()
        self._values: Tensor | None = None
        self._history = history
        # A ring with one slot more than pairs are kept: a candidate is written there before it is known to be one.
        self._slots = slots = history + 1
        padded = -(-image.numel() // self._CHUNK) * self._CHUNK
        self._vectors = image.new_zeros(2 * slots + 1, padded)
        """Moves, changes of the gradient, and the gradient at the best image."""
        self._fresh = image.new_zeros(3, padded)
        """The last step's move, change and gradient."""
        self._direction = image.new_zeros(padded)
        self._products = self._small(torch.zeros(2 * slots + 1, 2 * slots + 1))
        """Inner products of all vectors."""
        # Objective at the best image, length of the next move, slope along it; pairs in the history, the slot for the
        # next one, and rejections in a row. Before the first step anything is better than what is there.
        self._state = self._small(torch.tensor([math.inf, 0, 0, 0, 0, 0]))
        ages = torch.arange(history)
        twice, last = torch.cat([ages, ages]), torch.full((1,), -1)
        self._ages = self._small(torch.cat([twice, last]))
        """Of moves, of changes, newest first; the gradient is always there."""
        self._ring = self._small(torch.cat([torch.full((2 * history,), slots), torch.ones(1)]))
        self._base = self._small(torch.cat([0 * ages, 0 * ages + slots, last + 1 + 2 * slots]))
        self._steepest = self._small(torch.cat([0 * twice, last]))

    @property
    def image(self) -> Tensor:
        """The best image so far."""
        return self._image

    def step(self, evaluate: Evaluate) -> Losses:
        """Tries one move; returns the losses of the best image so far, so that what is reported never rises."""
        best, length, slope, count, head, rejections = self._state.unbind()
        trial = torch.addcmul(self._image, self._as_image(self._direction), length.to(self._image.dtype))
        evaluation = evaluate(trial)
        total = evaluation.values.double().sum()
        rise = total - best
        promised = length * slope
        accepted = total <= best + self._ARMIJO * promised
        values = self._take(accepted, trial, evaluation)

        moved, bend, changed = self._update_products(torch.stack([head, head + self._slots, self._base[-1]]).long())
        # Without positive curvature the pair would make the next direction point uphill. Relative to both vectors, so
        # that the objective's scale, which in the paper's is 1e12, does not matter. A rejected move is 0 here.
        curved = (bend > 1e-10 * moved.sqrt() * changed.sqrt()).double()
        head = (head + curved) % self._slots
        count = (count + curved).clamp_max(self._history)

        rejections = torch.where(accepted, 0.0, rejections + 1)
        restart = (rejections >= self._PATIENCE) & (count > 0)
        rejections = torch.where(restart, 0.0, rejections)
        count = torch.where(restart, 0.0, count)
        slope, count = self._aim(head, count)

        # The minimum of the parabola through both values and the slope, kept within [0.1, 0.5] of the failed move.
        above = rise - promised
        factor = torch.where((above > 0) & (above < math.inf), -promised / (2 * above), 0.1).clamp(0.1, 0.5)
        squared = self._products[-1, -1]
        root_count = math.sqrt(self._image.numel())
        first = torch.where(squared > 0, self._FIRST_MOVE * root_count / squared.sqrt(), 0.0)
        length = torch.where(accepted | restart, torch.where(count > 0, 1.0, first), length * factor)
        best = torch.where(accepted, total, best)
        self._state.copy_(torch.stack([best, length, slope, count, head, rejections]))
        return Losses(evaluation.terms, values)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """Without padding, and without what each step makes anew before it reads it."""
        assert self._values is not None
        size = self._image.numel()
        return {
            "image": self._image,
            "values": self._values,
            "vectors": self._vectors[:, :size],
            "direction": self._direction[:size],
            "products": self._products,
            "state": self._state,
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from another's state."""
        if self._values is None:
            self._values = torch.empty_like(state["values"], device=self._image.device)
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    def _take(self, accepted: Tensor, trial: Tensor, evaluation: Evaluation) -> Tensor:
        """Makes the trial the best image if it is accepted; returns the best image's losses.

        Selected, not multiplied: what a rejected trial gives may not be finite.
        """
        image = torch.where(accepted, trial, self._image)
        best = self._as_image(self._vectors[-1])
        move, change, gradient = (self._as_image(vector) for vector in self._fresh)
        torch.where(accepted, evaluation.gradient, best, out=gradient)
        torch.sub(gradient, best, out=change)
        torch.sub(image, self._image, out=move)
        self._image.copy_(image)
        if self._values is None:
            self._values = evaluation.values.clone()
        else:
            self._values.copy_(torch.where(accepted, evaluation.values, self._values))
        return self._values.clone()

    def _update_products(self, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Writes the fresh vectors to their slots [3], and brings the inner products up to date.

        Those of a new move with older changes are left as they were: the direction does not depend on them.

        Returns:
            The products move by move, move by change and change by change.
        """
        self._vectors.index_copy_(0, slots, self._fresh)
        vectors = self._vectors.view(len(self._vectors), -1, self._CHUNK)
        fresh = self._fresh.view(3, -1, self._CHUNK)
        products = torch.bmm(fresh[1:].transpose(0, 1), vectors.permute(1, 2, 0)).sum(dim=0, dtype=torch.float64)
        self._products.index_copy_(0, slots[1:], products)
        self._products.index_copy_(1, slots[1:], products.T)
        bend, changed = products[0].index_select(0, slots[:2])
        return self._fresh[0].square().sum(dtype=torch.float64), bend, changed

    def _aim(self, head: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Sets the direction -H g, with H from `count` pairs; steepest descent when that does not point downhill.

        Returns:
            The slope along it and the number of pairs then left.
        """
        m = self._history
        order = ((head - 1 - self._ages) % self._ring + self._base).long()
        live = self._ages < count
        products = torch.where(live[:, None] & live, self._products[order[:, None], order], 0.0)
        inner, gradient = products[:m, m : 2 * m], products[:, -1]
        # S^T Y where the move is not newer than the change; 1 on the diagonal of pairs that are not there.
        triangle = inner.tril() + torch.diag((~live[:m]).double())
        scale = torch.where(count > 0, inner[0, 0] / products[m, m], 1.0)
        weights = torch.linalg.solve_triangular(triangle, gradient[:m, None], upper=False)[:, 0]
        right = inner.diagonal() * weights + scale * (products[m : 2 * m, m : 2 * m] @ weights - gradient[m : 2 * m])
        moves = torch.linalg.solve_triangular(triangle.T, right[:, None], upper=True)[:, 0]
        coefficients = torch.cat([-moves, scale * weights, -scale[None]])
        slope = coefficients @ gradient
        downhill = (slope < 0) & (slope > -math.inf)
        coefficients = torch.where(downhill, coefficients, self._steepest)
        spread = self._vectors.new_zeros(len(self._vectors))
        spread.index_copy_(0, order, coefficients.to(spread.dtype))
        torch.mv(self._vectors.T, spread, out=self._direction)
        return torch.where(downhill, slope, -gradient[-1]), torch.where(downhill, count, 0.0)

    def _as_image(self, vector: Tensor) -> Tensor:
        """The vector without its padding."""
        return vector[: self._image.numel()].view(self._image.shape)

    def _small(self, values: Tensor) -> Tensor:
        """What the direction is worked out with: float64, on the image's device."""
        return values.to(self._image.device, torch.float64)
