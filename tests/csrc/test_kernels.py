"""The CUDA kernels, run by the emulator, against dense sums in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from checks import (
    BACKWARD_BOUND,
    INPUTS,
    LAYOUTS,
    MASKS,
    MODES,
    SIZE,
    TV_KINDS,
    check_backward,
    check_bits,
    check_convolution_input,
    check_feature_loss,
    check_gram,
    check_loss,
    check_relu_backward,
    check_tv,
)
from dense import hard_masks, make_plan, random, soft_masks
from emulated import Run, feature_loss, masked_gram, masked_gram_backward, masked_tv

CHANNELS = [1, 3, 5, 64, 72, 130]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=LAYOUTS)
def run(request: pytest.FixtureRequest, mode: str) -> Run:
    kind = MODES[mode][0]
    return Run(kind.kind, LAYOUTS[request.param], kind.exact)


# Forward


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("masks", ["some pixels in none", "soft"])
def test_gram(emulator: Any, run: Run, mode: str, channels: int, masks: str) -> None:
    features = random(2, channels, *SIZE, kind=run.kind)
    error = check_gram(emulator, run, features, MASKS[masks], MODES[mode][1])
    assert error > 0.05 or mode != "tf32" or channels == 1, "more accurate than one product can be"


@pytest.mark.parametrize("masks", MASKS)
def test_gram_of_any_masks(emulator: Any, run: Run, mode: str, masks: str) -> None:
    features = random(1, 5, *SIZE, kind=run.kind)
    check_gram(emulator, run, features, MASKS[masks], MODES[mode][1])


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (65, 1), (16, 8), (9, 15)])
def test_gram_of_any_size(emulator: Any, run: Run, mode: str, size: tuple[int, int]) -> None:
    features = random(1, 6, *size, kind=run.kind)
    check_gram(emulator, run, features, np.ones((1, *size), dtype=np.float32), MODES[mode][1])
    check_gram(emulator, run, features, soft_masks(2, *size), MODES[mode][1])


@pytest.mark.parametrize("channels", [4, 6, 8, 66, 136])
def test_gram_of_any_alignment(emulator: Any, mode: str, channels: int) -> None:
    """16-byte copies need channels and a start to match; this one is off by one element."""
    kind, bound = MODES[mode]
    element = 4 if kind.kind == "f32" else 2
    features = random(2, channels, *SIZE, kind=kind.kind)
    for offset in (0, element):
        check_gram(emulator, Run(kind.kind, True, kind.exact, offset), features, MASKS["soft"], bound)


@pytest.mark.parametrize(("batch", "channels"), [(88, 3), (9, 130)])
def test_gram_of_slots_with_many_tiles(emulator: Any, run: Run, mode: str, batch: int, channels: int) -> None:
    """Many images leave few slots to each, so that a block meets several segments and its pipeline is full."""
    features = random(batch, channels, *SIZE, kind=run.kind)
    check_gram(emulator, run, features, MASKS["soft"], MODES[mode][1])


@pytest.mark.parametrize(
    ("batch", "masks"),
    [(70, "many soft, some pixels in none"), (20, "256 segments"), (265, "some pixels in none")],
)
def test_gram_of_slots_with_many_segments(emulator: Any, batch: int, masks: str) -> None:
    check_gram(emulator, Run(), random(batch, 1, *SIZE), MASKS[masks], 2.0**-10)


def test_gram_of_many_pixels(emulator: Any) -> None:
    """About 300 tiles, more than there are slots; and sums long enough for rounding to show."""
    features = random(1, 20, 140, 137)
    check_gram(emulator, Run(exact=True), features, hard_masks(3, 140, 137), 2e-6)


@pytest.mark.parametrize("masks", ["some pixels in none", "soft", "one pixel, two empty"])
@pytest.mark.parametrize("channels", [5, 130])
def test_gram_loss(emulator: Any, run: Run, mode: str, channels: int, masks: str) -> None:
    features = random(2, channels, *SIZE, kind=run.kind)
    check_loss(emulator, run, features, MASKS[masks], MODES[mode][1])


@pytest.mark.parametrize("channels", [5, 130])
def test_gram_has_the_same_bits_in_any_order_of_threads(emulator: Any, run: Run, channels: int) -> None:
    features, plan = random(1, channels, *SIZE, kind=run.kind), make_plan(MASKS["soft"])
    check_bits(run, lambda each: masked_gram(emulator, each, features, plan))


# Backward


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("masks", ["some pixels in none", "soft"])
def test_backward(emulator: Any, run: Run, mode: str, channels: int, masks: str) -> None:
    features = random(2, channels, *SIZE, kind=run.kind)
    error = check_backward(emulator, run, features, MASKS[masks], BACKWARD_BOUND[mode], mean=channels != 5)
    assert error > 0.05 or mode != "tf32", "more accurate than one product can be"


@pytest.mark.parametrize("masks", MASKS)
def test_backward_of_any_masks(emulator: Any, run: Run, mode: str, masks: str) -> None:
    features = random(1, 5, *SIZE, kind=run.kind)
    check_backward(emulator, run, features, MASKS[masks], BACKWARD_BOUND[mode])


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (65, 1), (16, 8), (9, 15)])
def test_backward_of_any_size(emulator: Any, run: Run, mode: str, size: tuple[int, int]) -> None:
    features = random(1, 6, *size, kind=run.kind)
    check_backward(emulator, run, features, np.ones((1, *size), dtype=np.float32), BACKWARD_BOUND[mode])
    check_backward(emulator, run, features, soft_masks(2, *size), BACKWARD_BOUND[mode])


@pytest.mark.parametrize("channels", [4, 6, 8, 66, 136])
def test_backward_of_any_alignment(emulator: Any, mode: str, channels: int) -> None:
    kind, element = MODES[mode][0], 4 if MODES[mode][0].kind == "f32" else 2
    features = random(2, channels, *SIZE, kind=kind.kind)
    for offset in (0, element):
        run = Run(kind.kind, True, kind.exact, offset)
        check_backward(emulator, run, features, MASKS["soft"], BACKWARD_BOUND[mode])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_of_blocks_of_128_channels(emulator: Any, mode: str, layout: str) -> None:
    """Which only many images or pixels get."""
    run = Run(MODES[mode][0].kind, LAYOUTS[layout], MODES[mode][0].exact)
    features = random(24, 130, 7, 5, kind=run.kind)
    check_backward(emulator, run, features, hard_masks(3, 7, 5), BACKWARD_BOUND[mode])


@pytest.mark.parametrize("channels", [5, 72])
def test_backward_has_the_same_bits_in_any_order_of_threads(emulator: Any, run: Run, channels: int) -> None:
    features, plan = random(2, channels, *SIZE, kind=run.kind), make_plan(MASKS["soft"])
    matrices, scales = random(2, 4, channels, channels, seed=1), random(2, 4, seed=2)
    check_bits(run, lambda each: masked_gram_backward(emulator, each, features, plan, matrices, scales, None))


def test_backward_of_matrices_beyond_the_range_of_half(emulator: Any) -> None:
    features, masks = random(1, 20, *SIZE, kind="f16"), MASKS["some pixels in none"]
    check_backward(emulator, Run("f16"), features, masks, BACKWARD_BOUND["f16"], matrix_scale=1e6)


@pytest.fixture(params=["f32", "bf16", "f16"])
def plain_run(request: pytest.FixtureRequest) -> Run:
    """Of the kernels without tensor cores."""
    return Run(request.param)


# Total variation


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TV_KINDS)
@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (2, 3, 4, 8), (1, 1, 1, 1), (1, 1, 1, 9), (1, 2, 9, 1), (2, 5, 7, 3)])
def test_tv(emulator: Any, plain_run: Run, layout: str, kind: str, shape: tuple[int, int, int, int]) -> None:
    check_tv(emulator, dataclasses.replace(plain_run, channels_last=LAYOUTS[layout]), shape, kind)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TV_KINDS)
@pytest.mark.parametrize("shape", [(1, 3, 37, 141), (2, 1, 70, 132), (1, 4, 33, 64), (1, 2, 3, 300)])
def test_tv_of_several_blocks(
    emulator: Any, plain_run: Run, layout: str, kind: str, shape: tuple[int, int, int, int]
) -> None:
    check_tv(emulator, dataclasses.replace(plain_run, channels_last=LAYOUTS[layout]), shape, kind)


@pytest.mark.parametrize("kind", TV_KINDS)
def test_tv_of_any_alignment(emulator: Any, plain_run: Run, kind: str) -> None:
    """Vectors need rows that start at their multiples; these start one number late."""
    check_tv(emulator, dataclasses.replace(plain_run, offset=4 if plain_run.kind == "f32" else 2), (2, 3, 9, 16), kind)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tv_has_the_same_bits_in_any_order_of_threads(emulator: Any, plain_run: Run, layout: str) -> None:
    run = dataclasses.replace(plain_run, channels_last=LAYOUTS[layout])
    image, weight = random(2, 3, 40, 70, kind=run.kind), soft_masks(1, 40, 70)[0]
    check_bits(run, lambda each: masked_tv(emulator, each, image, weight, product=False))


def test_only_the_product_pulls_towards_grey(emulator: Any) -> None:
    """A flat picture has no variation; the product with a falling map has one."""
    flat, border = np.full((1, 3, 6, 7), 2, dtype=np.float32), soft_masks(1, 6, 7)[0]
    loss, gradient = masked_tv(emulator, Run(), flat, border, product=False)
    assert loss == 0
    assert not gradient.any()
    assert masked_tv(emulator, Run(), flat, border, product=True)[0] > 0


# Between the convolutions

MAPS = [
    (1, 1, 1, 1),
    (2, 3, 5, 4),
    (1, 8, 1, 6),
    (1, 4, 7, 1),
    (1, 16, 2, 2),
    (2, 24, 3, 3),
    (1, 12, 4, 7),
    (3, 6, 2, 5),
]


@pytest.mark.parametrize("inputs", INPUTS, ids=str)
@pytest.mark.parametrize("shape", [shape for shape in MAPS if min(shape[2:]) > 1], ids=str)
def test_convolution_input(
    emulator: Any, plain_run: Run, shape: tuple[int, int, int, int], inputs: tuple[bool, bool]
) -> None:
    check_convolution_input(emulator, plain_run, shape, inputs)
    check_relu_backward(emulator, plain_run, shape, inputs)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_convolution_input_of_any_size(
    emulator: Any, plain_run: Run, shape: tuple[int, int, int, int], pad: bool
) -> None:
    check_convolution_input(emulator, plain_run, shape, (False, pad))
    check_relu_backward(emulator, plain_run, shape, (False, pad))


@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_feature_loss(emulator: Any, plain_run: Run, shape: tuple[int, int, int, int]) -> None:
    check_feature_loss(emulator, plain_run, shape)


@pytest.mark.parametrize("offset", [False, True])
def test_layers_of_several_blocks_and_any_alignment(emulator: Any, plain_run: Run, offset: bool) -> None:
    """More vectors in a row than a block has; those that start one number late are read one by one."""
    element = 4 if plain_run.kind == "f32" else 2
    run = dataclasses.replace(plain_run, offset=element if offset else 0)
    for shape in ((1, 136, 3, 70), (2, 1032, 2, 3)):
        for inputs in INPUTS:
            check_convolution_input(emulator, run, shape, inputs)
            check_relu_backward(emulator, run, shape, inputs)
        check_feature_loss(emulator, run, shape)


def test_feature_loss_has_the_same_bits_in_any_order_of_threads(emulator: Any, plain_run: Run) -> None:
    features, target = (random(2, 40, 9, 30, seed=seed, kind=plain_run.kind) for seed in (0, 1))
    weight = soft_masks(1, 9, 30)[0]
    check_bits(plain_run, lambda each: feature_loss(emulator, each, features, target, weight, 0.3))


# All of them


@pytest.mark.parametrize("seed", range(30))
def test_any_shape_mask_layout_and_order(emulator: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mode, channels, segments = str(rng.choice(list(MODES))), int(rng.integers(1, 140)), int(rng.integers(1, 7))
    batch, height, width = (int(rng.integers(1, most)) for most in (4, 16, 16))
    if rng.random() < 0.5:
        masks = soft_masks(segments, height, width, seed=seed)
    else:
        masks = hard_masks(segments, height, width, uncovered=float(rng.random()), seed=seed)
    base = MODES[mode][0]
    offset = int(rng.integers(3)) * (4 if base.kind == "f32" else 2)
    run = Run(base.kind, bool(rng.integers(2)), base.exact, offset, seed + 2)
    features = random(batch, channels, height, width, seed=seed, kind=run.kind)
    check_gram(emulator, run, features, masks, MODES[mode][1])
    check_loss(emulator, run, features, masks, MODES[mode][1])
    check_backward(emulator, run, features, masks, BACKWARD_BOUND[mode], mean=bool(rng.integers(2)))
    check_tv(emulator, run, (batch, channels, height, width), str(rng.choice(TV_KINDS)))
    plain, shape = dataclasses.replace(run, exact=False), (batch, min(channels, 40), height + 1, width + 1)
    inputs = INPUTS[int(rng.integers(len(INPUTS)))]
    check_convolution_input(emulator, plain, shape, inputs)
    check_relu_backward(emulator, plain, shape, inputs)
    check_feature_loss(emulator, plain, shape)
