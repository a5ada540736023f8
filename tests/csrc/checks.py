"""What must hold of each kernel's results: asserted against dense sums in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import dense
import emulated
import numpy as np
from dense import EPSILON, backward, gram, hard_masks, make_plan, random, soft_masks, tv
from emulated import Run, masked_gram, masked_gram_backward, masked_gram_loss, masked_tv

SIZE = (13, 11)


def pixel_mask() -> np.ndarray:
    masks = np.zeros((3, *SIZE), dtype=np.float32)
    masks[1, 5, 6] = 1
    return masks


MASKS = {
    "hard": hard_masks(3, *SIZE),
    "some pixels in none": hard_masks(3, *SIZE, uncovered=0.6),
    "soft": soft_masks(4, *SIZE),
    "one full": np.ones((1, *SIZE), dtype=np.float32),
    "two full": np.ones((2, *SIZE), dtype=np.float32),
    "full but soft": np.full((1, *SIZE), 0.25, dtype=np.float32),
    "one pixel, two empty": pixel_mask(),
    "all empty": np.zeros((2, *SIZE), dtype=np.float32),
    "soft, empty first and last": np.pad(soft_masks(2, *SIZE), ((1, 1), (0, 0), (0, 0))),
    "many soft, some pixels in none": soft_masks(9, *SIZE) * hard_masks(3, *SIZE)[1],
    "256 segments": hard_masks(256, *SIZE, uncovered=0.1),
}
# Type and exactness, then the bound on a sum's error over the sum of absolute values. A TF32 product is off by 2^-10 at
# most, a bfloat16 product whose left side is split in two by 2^-17.
MODES = {
    "tf32": (Run(), 2.0**-10),
    "3xtf32": (Run(exact=True), 2e-6),
    "bf16": (Run("bf16"), 2.0**-17),
    "f16": (Run("f16"), 2e-6),
}
LAYOUTS = {"nchw": False, "channels_last": True}
# Matrices are rounded to TF32 for features of 16 bits too.
BACKWARD_BOUND = {"tf32": 2.0**-10, "3xtf32": 2e-6, "bf16": 2.0**-11 + 2e-6, "f16": 2.0**-11 + 2e-6}
# Pooled, padded.
INPUTS = [(False, False), (False, True), (True, False), (True, True)]
TV_KINDS = ["plain", "weighted", "product"]


def with_nan_outside(features: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pixels of no segment must not be read, or at least not matter."""
    return np.where(masks.any(axis=0), features, np.float32(np.nan))


def check_gram(emulator: Any, run: Run, features: np.ndarray, masks: np.ndarray, bound: float) -> float:
    """Of Gram matrices and means. Returns the error of the former over `bound`."""
    matrix, mean = masked_gram(emulator, run, with_nan_outside(features, masks), make_plan(masks))
    expected, expected_mean, size = gram(features, masks)
    error = np.abs(matrix - expected)
    assert (error <= bound * size).all()
    assert (np.abs(mean - expected_mean) <= bound * gram(np.abs(features), masks)[1]).all()
    np.testing.assert_array_equal(matrix, matrix.transpose(0, 1, 3, 2))
    return float((error / np.where(size > 0, size, 1)).max() / bound)


def check_loss(emulator: Any, run: Run, features: np.ndarray, masks: np.ndarray, bound: float) -> None:
    channels = features.shape[1]
    targets = random(len(masks), channels, channels, seed=1)
    targets += targets.transpose(0, 2, 1)
    factors = np.arange(1, len(masks) + 1, dtype=np.float32)
    losses, difference = masked_gram_loss(
        emulator, run, with_nan_outside(features, masks), make_plan(masks), targets, factors
    )
    matrix, _, size = gram(features, masks)
    expected = matrix - targets
    assert (np.abs(difference - expected) <= bound * (size + np.abs(expected))).all()
    np.testing.assert_array_equal(difference, difference.transpose(0, 1, 3, 2))
    # Of its own differences, which are what the gradient uses.
    own = factors * (difference.astype(np.float64) ** 2).sum(axis=(2, 3))
    np.testing.assert_allclose(losses, own, rtol=1e-6)


def check_backward(
    emulator: Any,
    run: Run,
    features: np.ndarray,
    masks: np.ndarray,
    bound: float,
    *,
    mean: bool = True,
    matrix_scale: float = 1,
) -> float:
    """Returns the error over `bound`."""
    shape = (len(features), len(masks), features.shape[1])
    matrices = random(*shape, shape[2], seed=1)
    matrices = matrix_scale * (matrices + matrices.transpose(0, 1, 3, 2))
    scales = random(*shape[:2], seed=2) / np.float32(matrix_scale)
    mean_gradient = random(*shape, seed=3) if mean else None
    plan = make_plan(masks)
    result = masked_gram_backward(
        emulator, run, with_nan_outside(features, masks), plan, matrices, scales, mean_gradient
    )
    expected, size = backward(features, masks, matrices, scales, mean_gradient)
    # Each pass rounds the result to the features' type.
    passes = len(plan.group_tiles)
    error = np.abs(result - expected)
    assert (error <= (bound + passes * EPSILON[run.kind] / 2) * size).all()
    return float((error / np.where(size > 0, size, 1)).max() / bound)


def check_tv(emulator: Any, run: Run, shape: tuple[int, int, int, int], kind: str) -> None:
    image = random(*shape, kind=run.kind)
    weight = None if kind == "plain" else soft_masks(1, *shape[2:])[0]
    loss, gradient = masked_tv(emulator, run, image, weight, product=kind == "product")
    expected_loss, expected = tv(image, weight, product=kind == "product")
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    # f16 has no normal numbers below 2^-14.
    smallest = 2.0**-25 if run.kind == "f16" else 0
    bound = (EPSILON[run.kind] / 2 + 1e-6) * np.abs(expected) + 1e-6 * np.abs(expected).max() + smallest
    assert (np.abs(gradient - expected) <= bound).all()


def stored(run: Run, size: np.ndarray) -> np.ndarray:
    """The error of sums of a few numbers of that size, rounded to the features' type."""
    # f16 has no normal numbers below 2^-14.
    return (EPSILON[run.kind] / 2 + 1e-6) * size + (2.0**-25 if run.kind == "f16" else 0)


def check_convolution_input(
    emulator: Any, run: Run, shape: tuple[int, int, int, int], inputs: tuple[bool, bool]
) -> None:
    pool, pad = inputs
    features = random(*shape, kind=run.kind)
    result = emulated.convolution_input(emulator, run, features, pool=pool, pad=pad)
    expected = dense.convolution_input(features, pool=pool, pad=pad)
    size = dense.convolution_input(np.abs(features), pool=pool, pad=pad)
    assert result.shape == expected.shape
    assert (np.abs(result - expected) <= stored(run, size)).all()


def check_relu_backward(emulator: Any, run: Run, shape: tuple[int, int, int, int], inputs: tuple[bool, bool]) -> None:
    pooled, padded = inputs
    output = random(*shape, kind=run.kind).clip(0)
    gradient = random(*dense.convolution_input(output, pool=pooled, pad=padded).shape, seed=1, kind=run.kind)
    for added in (None, random(*shape, seed=2, kind=run.kind)):
        result = emulated.relu_backward(emulator, run, output, gradient, added, pooled=pooled, padded=padded)
        expected, size = dense.relu_backward(output, gradient, added, pooled=pooled, padded=padded)
        assert (np.abs(result - expected) <= stored(run, size)).all()


def check_feature_loss(emulator: Any, run: Run, shape: tuple[int, int, int, int]) -> None:
    features, target = (random(*shape, seed=seed, kind=run.kind) for seed in (0, 1))
    for weight in (None, soft_masks(1, *shape[2:])[0]):
        loss, gradient = emulated.feature_loss(emulator, run, features, target, weight, 0.3)
        expected_loss, expected = dense.feature_loss(features, target, weight, 0.3)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
        assert (np.abs(gradient - expected) <= stored(run, np.abs(expected))).all()


def check_bits(run: Run, call: Callable[[Run], np.ndarray | tuple[np.ndarray, ...]]) -> None:
    """Of all results, in any order of threads."""
    first = call(run)
    for seed in range(1, 4):
        again = call(dataclasses.replace(run, seed=seed))
        assert [np.asarray(x).tobytes() for x in again] == [np.asarray(x).tobytes() for x in first]
