"""Calls of the kernels on the emulator, with maps [N, C, H, W] whatever their layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from dense import Plan


@dataclass(frozen=True)
class Run:
    """How a kernel is run: the type of its features, their layout and alignment, the order of threads."""

    kind: str = "f32"
    channels_last: bool = False
    exact: bool = False
    offset: int = 0
    seed: int = 0

    def options(self, emulator: Any) -> Any:
        return emulator.Options(self.kind, self.exact, self.offset, self.seed)

    def laid_out(self, maps: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(maps.transpose(0, 2, 3, 1) if self.channels_last else maps)


def _plan(emulator: Any, plan: Plan) -> Any:
    return emulator.Plan(plan.indices, plan.weights, plan.tile_segments, plan.group_tiles, plan.mass)


def masked_gram(emulator: Any, run: Run, features: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices [N, R, C, C] and means [N, R, C]."""
    gram, mean = emulator.masked_gram(
        run.laid_out(features), run.channels_last, _plan(emulator, plan), run.options(emulator)
    )
    return gram, mean


def masked_gram_loss(
    emulator: Any, run: Run, features: np.ndarray, plan: Plan, targets: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Losses [N, R] and differences [N, R, C, C]."""
    losses, difference = emulator.masked_gram_loss(
        run.laid_out(features), run.channels_last, _plan(emulator, plan), targets, factors, run.options(emulator)
    )
    return losses, difference


def masked_gram_backward(
    emulator: Any,
    run: Run,
    features: np.ndarray,
    plan: Plan,
    matrices: np.ndarray,
    scales: np.ndarray,
    mean_gradient: np.ndarray | None,
) -> np.ndarray:
    """The gradient [N, C, H, W]."""
    gradient: np.ndarray = emulator.masked_gram_backward(
        run.laid_out(features),
        run.channels_last,
        _plan(emulator, plan),
        matrices,
        scales,
        mean_gradient,
        run.options(emulator),
    )
    return gradient.transpose(0, 3, 1, 2) if run.channels_last else gradient


def masked_tv(
    emulator: Any, run: Run, image: np.ndarray, weight: np.ndarray | None, *, product: bool
) -> tuple[float, np.ndarray]:
    """The loss and the gradient [N, C, H, W]."""
    loss, gradient = emulator.masked_tv(run.laid_out(image), run.channels_last, weight, product, run.options(emulator))
    return loss, gradient.transpose(0, 3, 1, 2) if run.channels_last else gradient


# Of the operators between the convolutions, which take channels_last alone.


def _rows(maps: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(maps.transpose(0, 2, 3, 1))


def _maps(rows: np.ndarray) -> np.ndarray:
    return rows.transpose(0, 3, 1, 2)


def convolution_input(emulator: Any, run: Run, features: np.ndarray, *, pool: bool, pad: bool) -> np.ndarray:
    """The convolution's input [N, C, H', W']."""
    return _maps(emulator.convolution_input(_rows(features), pool, pad, run.options(emulator)))


def relu_backward(
    emulator: Any,
    run: Run,
    output: np.ndarray,
    gradient: np.ndarray,
    added: np.ndarray | None,
    *,
    pooled: bool,
    padded: bool,
) -> np.ndarray:
    """The gradient by the ReLU's input [N, C, H, W]."""
    more = None if added is None else _rows(added)
    return _maps(emulator.relu_backward(_rows(output), _rows(gradient), pooled, padded, more, run.options(emulator)))


def feature_loss(
    emulator: Any, run: Run, features: np.ndarray, target: np.ndarray, weight: np.ndarray | None, share: float
) -> tuple[float, np.ndarray]:
    """The loss and the gradient [N, C, H, W]."""
    loss, gradient = emulator.feature_loss(_rows(features), _rows(target), weight, share, run.options(emulator))
    return loss, _maps(gradient)
