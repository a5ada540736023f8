"""The emulator's primitives, against what PTX says of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

SEEDS = range(6)
Step = tuple[str, int, int]


def run(
    emulator: Any,
    steps: Callable[[int], list[Step | str]],
    *,
    threads: int = 32,
    memory: int = 256,
    shared: int = 1024,
    seed: int = 0,
) -> np.ndarray:
    """What each thread loads when thread t does steps(t); word i of global memory holds i + 1."""
    programs = [[(s, 0, 0) if isinstance(s, str) else s for s in steps(thread)] for thread in range(threads)]
    values = np.arange(1, memory + 1, dtype=np.float32)
    results: list[list[float]] = emulator.run_program(programs, values, shared, seed)
    return np.array(results)


# Threads, their order and barriers


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier_makes_every_store_visible(emulator: Any, seed: int) -> None:
    loaded = run(
        emulator, lambda t: [("store", t, t), "barrier", ("load", 127 - t, 0)], threads=128, shared=512, seed=seed
    )
    assert loaded[:, 0].tolist() == list(range(127, -1, -1))


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_barrier_some_thread_comes_too_early(emulator: Any, seed: int) -> None:
    loaded = run(emulator, lambda t: [("store", t, t), ("load", 127 - t, 0)], threads=128, shared=512, seed=seed)
    assert np.isnan(loaded).any()


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_second_barrier_lets_a_store_overtake_a_load(emulator: Any, seed: int) -> None:
    """The next round's stores must wait for this round's loads."""

    def steps(t: int, *between: str) -> list[Step | str]:
        return [("store", t, t), "barrier", ("load", 127 - t, 0), *between, ("store", t, 1000 + t)]

    loaded = [run(emulator, lambda t, b=b: steps(t, *b), threads=128, seed=seed) for b in ([], ["barrier"])]
    assert (loaded[0] >= 1000).any()
    assert loaded[1][:, 0].tolist() == list(range(127, -1, -1))


def test_order_of_threads_is_forward_then_backward_then_seeded(emulator: Any) -> None:
    """All threads write one word; the last to come is seen after the barrier."""
    last = [
        run(emulator, lambda t: [("store", 0, t), "barrier", ("load", 0, 0)], threads=128, seed=seed)[0, 0]
        for seed in range(20)
    ]
    assert last[:2] == [127, 0]
    assert len(set(last)) > 8


def test_order_differs_from_barrier_to_barrier(emulator: Any) -> None:
    def steps(t: int) -> list[Step | str]:
        return [("store", 0, t), "barrier", ("load", 0, 0), "barrier"] * 8

    loaded = run(emulator, steps, threads=128, seed=3)
    assert len(set(loaded[0])) > 4
    np.testing.assert_array_equal(loaded, run(emulator, steps, threads=128, seed=3))


@pytest.mark.parametrize("seed", SEEDS)
def test_barrier_that_a_thread_misses(emulator: Any, seed: int) -> None:
    with pytest.raises(RuntimeError, match=r"thread \(64, 0, 0\): returned, while others wait at a barrier"):
        run(emulator, lambda t: ["barrier"] if t < 64 else [], threads=128, seed=seed)


def test_two_barriers_in_two_branches(emulator: Any) -> None:
    with pytest.raises(RuntimeError, match="at a barrier, while others wait at that of"):
        run(emulator, lambda t: ["barrier" if t < 64 else "other_barrier"], threads=128)


def test_shared_memory_starts_as_nan_and_its_guards_hold(emulator: Any) -> None:
    assert np.isnan(run(emulator, lambda t: [("load", t, 0)])).all()
    for word, where in ((32, "past the end"), (-1, "before the start")):
        with pytest.raises(RuntimeError, match=f"wrote {where} of shared memory"):
            run(emulator, lambda _, word=word: [("store", word, 1)], shared=128)


def test_an_error_does_not_spoil_the_next_run(emulator: Any) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError, match="no instruction nonsense"):
            run(emulator, lambda t: ["barrier", "nonsense" if t == 7 else "commit"], threads=64)
        assert run(emulator, lambda _: ["barrier", ("warp_sum", 1, 0)], threads=64)[:, 0].tolist() == [32] * 64


@pytest.mark.parametrize(
    ("grid", "block", "shared", "what"),
    [
        ((1, 1, 1), (48, 1, 1), 0, "a block of 48 threads"),
        ((1, 1, 1), (2048, 1, 1), 0, "a block of 2048 threads"),
        ((0, 1, 1), (32, 1, 1), 0, r"a grid of \(0, 1, 1\)"),
        ((1, 65536, 1), (32, 1, 1), 0, r"a grid of \(1, 65536, 1\)"),
        ((1, 1, 65536), (32, 1, 1), 0, r"a grid of \(1, 1, 65536\)"),
        ((1, 1, 1), (32, 1, 1), 99 * 1024 + 1, "101377 bytes of shared memory"),
    ],
)
def test_launches_a_device_would_refuse(
    emulator: Any, grid: tuple[int, int, int], block: tuple[int, int, int], shared: int, what: str
) -> None:
    with pytest.raises(RuntimeError, match=what):
        emulator.launch_nothing(grid, block, shared)


def test_launch_at_the_limits(emulator: Any) -> None:
    emulator.launch_nothing((3, 2, 2), (16, 8, 8), 99 * 1024)


# cp_async


def test_copy_arrives_at_its_own_wait_and_is_nan_until_then(emulator: Any) -> None:
    loaded = run(
        emulator,
        lambda t: [
            ("store", t, 9),
            ("copy_4", t, t),
            ("load", t, 0),
            "commit",
            ("load", t, 0),
            "wait_0",
            ("load", t, 0),
        ],
    )
    assert np.isnan(loaded[:, :2]).all()
    assert loaded[:, 2].tolist() == list(range(1, 33))


def test_wait_leaves_the_newest_groups_pending(emulator: Any) -> None:
    for pending in range(3):

        def steps(t: int, pending: int = pending) -> list[Step | str]:
            issue: list[Step | str] = [s for g in range(3) for s in (("copy_4", 32 * g + t, g), "commit")]
            return [*issue, f"wait_{pending}", *(("load", 32 * g + t, 0) for g in range(3))]

        arrived = ~np.isnan(run(emulator, steps))
        assert arrived.tolist() == [[g < 3 - pending for g in range(3)]] * 32


def test_copies_of_no_group_are_not_waited_for(emulator: Any) -> None:
    assert np.isnan(run(emulator, lambda t: [("copy_4", t, t), "wait_0", ("load", t, 0)])).all()


def test_empty_groups_count(emulator: Any) -> None:
    """So a pipeline may commit nothing in its last rounds and wait for the same number."""
    loaded = run(emulator, lambda t: [("copy_4", t, t), "commit", "commit", "wait_1", ("load", t, 0)])
    assert loaded[:, 0].tolist() == list(range(1, 33))


def test_invalid_copy_writes_zeros_and_reads_nothing(emulator: Any) -> None:
    """Far out of bounds it may point, as the address of padding does."""
    loaded = run(
        emulator,
        lambda t: [("zero_16", 4 * t, 4_000_000), "commit", "wait_0", *(("load", 4 * t + i, 0) for i in range(4))],
    )
    assert not loaded.any()


@pytest.mark.parametrize("size", [4, 8, 16])
def test_copy_of_every_size(emulator: Any, size: int) -> None:
    words = size // 4
    loaded = run(
        emulator,
        lambda t: (
            [(f"copy_{size}", words * t, words * (31 - t)), "commit", "wait_0", "barrier"]
            + [("load", words * (31 - t) + i, 0) for i in range(words)]
        ),
    )
    assert loaded.tolist() == [[words * t + i + 1 for i in range(words)] for t in range(32)]


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (("copy_4", 0, 256), "byte 1024 of memory, which has 1024"),
        (("copy_16", 0, -4), "byte -16 of memory, which has 1024"),
        (("copy_4", 0, 4_000_000), "its source is in no buffer"),
        (("copy_16", 0, 2), "its source is misaligned"),
        (("zero_16", 0, 2), "its source is misaligned"),
        (("copy_16", 2, 0), "shared address 8 is not a multiple of 16"),
        (("copy_8", 1, 0), "shared address 4 is not a multiple of 8"),
        (("copy_4", 256, 0), "shared address 1024 of 1024"),
        (("copy_16", -4, 0), "shared address -16 of 1024"),
    ],
)
def test_bad_copies(emulator: Any, step: Step, what: str) -> None:
    with pytest.raises(RuntimeError, match=rf"thread \(0, 0, 0\): cp_async: {what}"):
        run(emulator, lambda _: [step])


@pytest.mark.parametrize("seed", SEEDS)
def test_ldmatrix_of_copied_data_needs_a_barrier(emulator: Any, seed: int) -> None:
    """Even where the order of the threads would deliver in time: each lane waits only for its own copies."""

    def steps(t: int, *between: str) -> list[Step | str]:
        return [("copy_16", 4 * t, 4 * t), "commit", "wait_0", *between, ("ldmatrix", 4 * t, 0)]

    with pytest.raises(RuntimeError, match="reads what cp_async delivered with no barrier since"):
        run(emulator, steps, seed=seed)
    loaded = run(emulator, lambda t: steps(t, "barrier"), seed=seed)
    assert loaded[:, 0].tolist() == [4 * (t // 4) + t % 4 + 1 for t in range(32)]


@pytest.mark.parametrize("seed", SEEDS)
def test_copy_over_what_ldmatrix_reads_needs_a_barrier(emulator: Any, seed: int) -> None:
    def steps(t: int, *between: str) -> list[Step | str]:
        return [*(("store", 4 * t + i, i) for i in range(4)), ("ldmatrix", 4 * t, 0), *between, ("copy_16", 4 * t, 0)]

    with pytest.raises(RuntimeError, match="overwrites what ldmatrix has read since the last barrier"):
        run(emulator, steps, seed=seed)
    run(emulator, lambda t: steps(t, "barrier"), seed=seed)


# Warp collectives


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_sum(emulator: Any, seed: int) -> None:
    loaded = run(emulator, lambda t: [("warp_sum", t, 0), ("warp_sum", 1, 0)], threads=64, seed=seed)
    assert loaded.tolist() == [[496, 32]] * 32 + [[1520, 32]] * 32


@pytest.mark.parametrize("seed", SEEDS)
def test_collective_that_lanes_miss(emulator: Any, seed: int) -> None:
    with pytest.raises(RuntimeError, match="warp_sum: only 16 of the warp's 32 lanes arrived"):
        run(emulator, lambda t: [("warp_sum", 1, 0)] if t < 16 else [], seed=seed)
    with pytest.raises(RuntimeError, match="warp_sum: only 31 of the warp's 32 lanes arrived"):
        run(emulator, lambda t: ["barrier"] if t == 40 else [("warp_sum", 1, 0), "barrier"], threads=64, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_two_collectives_at_once(emulator: Any, seed: int) -> None:
    with pytest.raises(RuntimeError, match="while other lanes of the warp are in"):
        run(emulator, lambda t: [("warp_sum", 1, 0) if t < 16 else ("ldmatrix", 0, 0)], seed=seed)


# PTX, matrix fragments of mma.m16n8k8 and mma.m16n8k16: register i of lane 4 g + t holds these (row, column).
GROUP, THREAD = np.divmod(np.arange(32), 4)
ACCUMULATOR = [(GROUP + i // 2 * 8, 2 * THREAD + i % 2) for i in range(4)]


def spread(matrix: np.ndarray, places: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([matrix[place] for place in places], axis=1)


def gathered(registers: np.ndarray) -> np.ndarray:
    result = np.full((16, 8), np.nan)
    for i, place in enumerate(ACCUMULATOR):
        result[place] = registers[:, i]
    return result


def integers(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.float32)


def test_mma_tf32(emulator: Any) -> None:
    a, b, c = integers(16, 8, seed=0), integers(8, 8, seed=1), integers(16, 8, seed=2)
    registers_a = spread(a, [(GROUP + i % 2 * 8, THREAD + i // 2 * 4) for i in range(4)]).view(np.uint32)
    registers_b = spread(b, [(THREAD + i * 4, GROUP) for i in range(2)]).view(np.uint32)
    result = emulator.mma(registers_a, registers_b, spread(c, ACCUMULATOR), 0)
    np.testing.assert_array_equal(gathered(result), a @ b + c)


@pytest.mark.parametrize("kind", ["bfloat16", "half"])
def test_mma_16bit(emulator: Any, kind: str) -> None:
    a, b, c = integers(16, 16, seed=0), integers(16, 8, seed=1), integers(16, 8, seed=2)

    def pairs(matrix: np.ndarray, places: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Two neighbours to a register, the first in the low half."""
        bits = getattr(emulator, f"to_{kind}")(spread(matrix, places).ravel()).astype(np.uint32)
        return (bits[::2] | bits[1::2] << 16).reshape(32, -1)

    registers_a = pairs(a, [(GROUP + i % 2 * 8, 2 * THREAD + i // 2 * 8 + k) for i in range(4) for k in range(2)])
    registers_b = pairs(b, [(2 * THREAD + i * 8 + k, GROUP) for i in range(2) for k in range(2)])
    result = emulator.mma(registers_a, registers_b, spread(c, ACCUMULATOR), 1 if kind == "bfloat16" else 2)
    np.testing.assert_array_equal(gathered(result), a @ b + c)


def test_mma_tf32_ignores_the_low_bits_and_cuts_its_sum_off(emulator: Any) -> None:
    ones = np.ones((32, 4), dtype=np.float32).view(np.uint32)
    zeros = np.zeros((32, 4), dtype=np.float32)
    low_bits = np.full((32, 4), 0x1FFF, dtype=np.uint32)
    np.testing.assert_array_equal(emulator.mma(ones | low_bits, ones[:, :2] | low_bits[:, :2], zeros, 0), 8)
    # 8 + 2^24 - 1 lies between 2^24 + 6 and 2^24 + 8.
    big = np.full((32, 4), 2**24 - 1, dtype=np.float32)
    np.testing.assert_array_equal(emulator.mma(ones, ones[:, :2], big, 0), 2**24 + 6)
    np.testing.assert_array_equal(emulator.mma(ones | 1 << 31, ones[:, :2], -big, 0), -(2**24) - 6)


@pytest.mark.parametrize("transpose", [False, True])
def test_ldmatrix(emulator: Any, transpose: bool) -> None:
    """Rows 20 elements apart at scattered places; lane i gives row i % 8 of matrix i / 8."""
    memory = np.random.default_rng(0).integers(0, 2**16, 32 * 24, dtype=np.uint16)
    rows = 24 * np.random.default_rng(1).permutation(32).astype(np.int32)
    registers = emulator.ldmatrix(memory, rows, transpose)
    for j in range(4):
        matrix = np.stack([memory[row : row + 8] for row in rows[8 * j : 8 * j + 8]])
        if transpose:
            matrix = matrix.T
        expected = matrix[GROUP, 2 * THREAD] | matrix[GROUP, 2 * THREAD + 1].astype(np.uint32) << 16
        np.testing.assert_array_equal(registers[:, j], expected)


def test_bad_ldmatrix(emulator: Any) -> None:
    memory = np.zeros(256, dtype=np.uint16)
    rows = np.zeros(32, dtype=np.int32)
    for row, what in ((4, "is not a multiple of 16"), (256, "512 of 512"), (-8, "-16 of 512")):
        rows[9] = row
        with pytest.raises(RuntimeError, match=rf"thread \(9, 0, 0\): ldmatrix_x4: shared address.*{what}"):
            emulator.ldmatrix(memory, rows, False)


# Number formats


def samples() -> np.ndarray:
    """Random bit patterns of all exponents, with ties and the border cases."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    half_range = (rng.standard_normal(20_000) * 2.0 ** rng.integers(-28, 17, 20_000)).astype(np.float32)
    ties = (patterns & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    half_ties = (half_range.view(np.uint32) & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
    special = np.array([0, -0.0, math.inf, -math.inf, 65519.996, 65520, 2**-24, 2**-25, 6.1e-5], dtype=np.float32)
    values = np.concatenate([np.concatenate([patterns, ties, half_ties]).view(np.float32), half_range, special])
    return values[~np.isnan(values)]


def test_half_is_numpys(emulator: Any) -> None:
    values = samples()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(emulator.to_half(values), values.astype(np.float16).view(np.uint16))
    bits = np.arange(2**16, dtype=np.uint16)
    np.testing.assert_array_equal(emulator.from_half(bits), bits.view(np.float16).astype(np.float32))


def finite(values: np.ndarray) -> np.ndarray:
    """In float64, where 2^128, the first number past the largest, stands for infinity."""
    wide = values.astype(np.float64)
    return np.where(np.isinf(wide), np.copysign(2.0**128, wide), wide)


def steps_of(values: np.ndarray, fraction_bits: int) -> np.ndarray:
    """The distance of neighbouring numbers with so many fraction bits."""
    _, exponent = np.frexp(values.astype(np.float64))
    return 2.0 ** (np.maximum(exponent - 1, -126) - fraction_bits)


def test_bfloat16_is_the_nearest_and_even_in_ties(emulator: Any) -> None:
    values = samples()
    step = steps_of(finite(values), 7)
    rounded = emulator.from_bfloat16(emulator.to_bfloat16(values))
    np.testing.assert_array_equal(finite(rounded), np.rint(finite(values) / step) * step)


def test_tf32_is_the_nearest_and_away_from_zero_in_ties(emulator: Any) -> None:
    values = samples()
    step = steps_of(finite(values), 10)
    rounded = (emulator.to_tf32(values) & np.uint32(0xFFFFE000)).view(np.float32)
    expected = np.copysign(np.floor(np.abs(finite(values)) / step + 0.5) * step, values)
    np.testing.assert_array_equal(finite(rounded), expected)


@pytest.mark.parametrize("kind", ["to_half", "to_bfloat16", "to_tf32"])
def test_nan_stays_nan(emulator: Any, kind: str) -> None:
    (bits,) = getattr(emulator, kind)(np.array([math.nan], dtype=np.float32))
    assert bits == (0x7FFFFFFF if kind == "to_tf32" else 0x7FFF)
