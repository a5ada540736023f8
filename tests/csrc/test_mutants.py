"""Planted faults: each of them must show, or the tests of the kernels and the emulator prove nothing.

A fault is put into a copy of the kernels' source by replacing one piece of text, which must be there exactly once.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import (
    BACKWARD_BOUND,
    INPUTS,
    MASKS,
    MODES,
    SIZE,
    TV_KINDS,
    check_backward,
    check_convolution_input,
    check_feature_loss,
    check_gram,
    check_loss,
    check_relu_backward,
    check_tv,
)
from dense import hard_masks, random
from emulated import Run
from emulator_build import CSRC, KERNELS, compile_kernel, link

TYPES = {"f32": "float", "bf16": "Bfloat16"}
WRONG = "wrong result"
UNSEEN = "ldmatrix: reads what cp_async delivered with no barrier since"


@dataclass(frozen=True)
class Mutant:
    """A fault in a file of csrc/cuda, and what shows it: an error of the emulator, or a wrong result."""

    what: str
    kernel: str
    old: str
    new: str
    shown_by: str
    file: str = ""
    kind: str = "f32"

    def __str__(self) -> str:
        return f"{self.kernel}: {self.what}"


MUTANTS = [
    # Forward
    Mutant(
        "missing barrier",
        "masked_gram",
        "barrier();  // this stage is there for all, and the one before is read by all and free",
        "",
        UNSEEN,
    ),
    Mutant(
        "wait one stage short",
        "masked_gram",
        "cp_async_wait<Traits::kStages - 2>();",
        "cp_async_wait<Traits::kStages - 1>();",
        UNSEEN,
    ),
    Mutant(
        "copy into the stage that is read",
        "masked_gram",
        "const int free = (stage + Traits::kStages - 1) % Traits::kStages;",
        "const int free = stage;",
        "cp_async: overwrites what ldmatrix has read since the last barrier",
    ),
    Mutant(
        "swapped right fragment",
        "masked_gram",
        "right_high[2] = {both[2 * half], both[2 * half + 1]}",
        "right_high[2] = {both[2 * half + 1], both[2 * half]}",
        WRONG,
    ),
    Mutant(
        "swapped fragment of floats along pixels",
        "masked_gram",
        "r[kLeft ? 1 : 2] = bit_cast<uint32_t>(first[8]);",
        "r[kLeft ? 1 : 2] = bit_cast<uint32_t>(first[4 * kStride]);",
        WRONG,
        file="operands.cuh",
    ),
    Mutant(
        "swapped transposed fragment",
        "masked_gram",
        "row_half = kLeft ? lane / 8 % 2 : lane / 16, k_half = kLeft ? lane / 16 : lane / 8 % 2;",
        "row_half = lane / 16, k_half = lane / 8 % 2;",
        WRONG,
        file="operands.cuh",
        kind="bf16",
    ),
    Mutant(
        "swapped halves of a pair",
        "masked_gram",
        "return bit_cast<uint16_t>(first) | static_cast<uint32_t>(bit_cast<uint16_t>(second)) << 16;",
        "return bit_cast<uint16_t>(second) | static_cast<uint32_t>(bit_cast<uint16_t>(first)) << 16;",
        WRONG,
        file="operands.cuh",
        kind="bf16",
    ),
    Mutant(
        "lost low part of the exact mode",
        "masked_gram",
        "return {high, to_tf32(value - bit_cast<float>(high))};",
        "return {high, 0};",
        WRONG,
        file="operands.cuh",
    ),
    Mutant(
        "low bits of a rounded number taken for zeros",
        "masked_gram",
        "to_tf32(value) & 0xffffe000;",
        "to_tf32(value);",
        WRONG,
        file="operands.cuh",
    ),
    Mutant(
        "lost product of the exact mode",
        "masked_gram",
        "mma_tf32(part, a_high, b_low);",
        "",
        WRONG,
        file="operands.cuh",
    ),
    Mutant(
        "lost tail predicate of channels",
        "masked_gram",
        "const bool valid = i * kRows < left;",
        "const bool valid = index_[0] >= 0;",
        "of features, which has",
    ),
    Mutant(
        "lost predicate of padding",
        "masked_gram",
        "index_[i] >= 0 && channel < channels_",
        "channel < channels_",
        "of features, which has",
    ),
    Mutant(
        "stage through registers written late",
        "masked_gram",
        "for (int i = 0; i < kCopies; ++i) to[i * kRows * Traits::kStride] = held_[i];",
        "for (int i = 1; i < kCopies; ++i) to[i * kRows * Traits::kStride] = held_[i - 1];",
        WRONG,
        kind="bf16",
    ),
    Mutant(
        "sums not cleared for the next segment",
        "masked_gram",
        "    clear();\n  }\n\n private:",
        "  }\n\n private:",
        WRONG,
    ),
    Mutant(
        "partials of two segments in one place",
        "masked_gram",
        ": slot + group;",
        ": slot + group / 2;",
        WRONG,
    ),
    Mutant(
        "partials of two segments in one place, where groups outnumber tiles",
        "masked_gram",
        "larger(slot * tiles_per_slot, group_begin)",
        "slot * tiles_per_slot",
        WRONG,
    ),
    Mutant(
        "warps on the diagonal skipped",
        "masked_gram",
        "row + 16 * Traits::kTilesM > column",
        "row > column",
        WRONG,
    ),
    Mutant(
        "missing barrier in the reduction",
        "masked_gram",
        "sums[thread_index().x] = sum;\n  barrier();",
        "sums[thread_index().x] = sum;",
        WRONG,
    ),
    Mutant(
        "upper triangle lost from the loss",
        "masked_gram",
        "row == column ? value * value : 2.0f * value * value",
        "value * value",
        WRONG,
    ),
    # Backward
    Mutant(
        "missing barrier",
        "masked_gram_backward",
        "barrier();  // this stage is there for all, and the one before is read by all and free",
        "",
        UNSEEN,
    ),
    Mutant(
        "wait one stage short",
        "masked_gram_backward",
        "cp_async_wait<Traits::kStages - 2>();",
        "cp_async_wait<Traits::kStages - 1>();",
        UNSEEN,
    ),
    Mutant(
        "missing barrier before the result",
        "masked_gram_backward",
        "barrier();  // all have read the last stage, whose place the result takes",
        "",
        WRONG,
    ),
    Mutant(
        "missing barrier after the result",
        "masked_gram_backward",
        "product.store(result);\n    barrier();",
        "product.store(result);",
        WRONG,
    ),
    Mutant(
        "missing barrier between tiles",
        "masked_gram_backward",
        "barrier();  // all have stored; the next tile may overwrite the result",
        "",
        WRONG,
    ),
    Mutant(
        "swapped right fragment",
        "masked_gram_backward",
        "round(bit_cast<float>(both[2 * half + i]), right[i], right_low[i]);",
        "round(bit_cast<float>(both[2 * half + 1 - i]), right[i], right_low[i]);",
        WRONG,
    ),
    Mutant(
        "swapped pair of a 16-bit fragment",
        "masked_gram_backward",
        "unpack<T>(raw[m][2 * step + i % 2], i / 2)",
        "unpack<T>(raw[m][2 * step + i / 2], i % 2)",
        WRONG,
        kind="bf16",
    ),
    Mutant(
        "lost tail predicate of channels",
        "masked_gram_backward",
        "const bool valid = index_[i] >= 0 && channel + j < channels_;",
        "const bool valid = index_[i] >= 0;",
        "of features, which has",
    ),
    Mutant(
        "lost tail predicate of the matrix",
        "masked_gram_backward",
        "const bool valid = first + row < rows_;",
        "const bool valid = true;",
        "of matrices, which has",
    ),
    Mutant(
        "lost predicate of padding in the store",
        "masked_gram_backward",
        "if (entry >= entries || indices[entry] < 0) return;",
        "if (entry >= entries) return;",
        "written before the start of out",
    ),
    Mutant(
        "lost tail predicate in the store",
        "masked_gram_backward",
        "if (indices[entry] < 0 || channel >= count) continue;",
        "if (indices[entry] < 0) continue;",
        "written past the end of out",
    ),
    Mutant(
        "later passes overwrite",
        "masked_gram_backward",
        "wide, pass > 0);",
        "wide, false);",
        WRONG,
    ),
    # Total variation
    Mutant(
        "missing barrier",
        "masked_tv",
        "barrier();",
        "",
        WRONG,
        file="elementwise.cuh",
    ),
    Mutant(
        "lost tail predicate of a row",
        "masked_tv",
        "j < kTvVector && j < left",
        "j < kTvVector",
        "written past the end of gradient",
    ),
    Mutant(
        "neighbour beyond the row",
        "masked_tv",
        "if (at + step < image.columns) {",
        "if (at + step <= image.columns) {",
        WRONG,
    ),
    Mutant(
        "pairs counted twice",
        "masked_tv",
        "sum += pair(value, weight, other, other_weight, false);",
        "sum += pair(value, weight, other, other_weight, true);",
        WRONG,
    ),
    Mutant(
        "product's gradient without its weight",
        "masked_tv",
        "if (kWeight == TvWeight::kProduct) sum *= weight;",
        "",
        WRONG,
    ),
    # Between the convolutions
    Mutant(
        "missing barrier",
        "layers",
        "barrier();",
        "",
        WRONG,
        file="elementwise.cuh",
    ),
    Mutant(
        "lost tail predicate of a row",
        "layers",
        "if (number < count) work",
        "if (number <= count) work",
        "written past the end of",
    ),
    Mutant(
        "rows of one picture for all",
        "layers",
        "n = line / map.height, y",
        "n = 0 * line / map.height, y",
        WRONG,
    ),
    Mutant(
        "margin of zeros",
        "layers",
        "for (int j = 0; j < kVector; ++j) means.values[j] = from_float<T>(0.25f * sums[j]);",
        "for (int j = 0; j < kVector; ++j)\n"
        "  means.values[j] = from_float<T>(y >= margin && x >= margin ? 0.25f * sums[j] : 0.0f);",
        WRONG,
    ),
    Mutant(
        "margin read beyond the picture",
        "layers",
        "larger(0, smaller(x - margin, out.width - 2 * margin - 1))",
        "larger(0, x - margin)",
        WRONG,
    ),
    Mutant(
        "second margin's gradient lost",
        "layers",
        " + (at == size - 1 ? margin : 0)",
        "",
        WRONG,
    ),
    Mutant(
        "dropped last row read",
        "layers",
        "if (from_y < height && from_x < width) {",
        "{",
        WRONG,
    ),
    Mutant(
        "whole gradient to each of four",
        "layers",
        "pooled ? 0.25f : 1.0f",
        "1.0f",
        WRONG,
    ),
    Mutant(
        "zeros let through",
        "layers",
        "to_float(through.values[j]) > 0.0f",
        "to_float(through.values[j]) >= 0.0f",
        WRONG,
        kind="bf16",
    ),
    Mutant(
        "added gradient behind no gate",
        "layers",
        "sums[j] : 0.0f);\n    store_vector(out + at, result);",
        "sums[j] : added == nullptr ? 0.0f : to_float(added[at + j]));\n    store_vector(out + at, result);",
        WRONG,
    ),
    Mutant(
        "weight of another row",
        "layers",
        "weight[static_cast<int64_t>(y) * features.width + x]",
        "weight[x]",
        WRONG,
    ),
]


def check(emulator: Any, kernel: str, kind: str, seeds: range) -> None:
    """The least that shows every fault: all layouts and modes, odd and even channels, several tiles and passes."""
    modes = [name for name, (run, _) in reversed(MODES.items()) if run.kind == kind]
    for seed in seeds:
        for mode in modes:
            for layout in (False, True):
                run = dataclasses.replace(MODES[mode][0], channels_last=layout, seed=seed)
                if kernel == "masked_gram":
                    check_forward_kernels(emulator, run, MODES[mode][1])
                elif kernel == "masked_gram_backward":
                    check_backward_kernel(emulator, run, BACKWARD_BOUND[mode])
                elif kernel == "masked_tv":
                    for tv_kind in TV_KINDS:
                        check_tv(emulator, run, (1, 3, 9, 5), tv_kind)
                else:
                    check_layer_kernels(emulator, run)


def check_forward_kernels(emulator: Any, run: Run, bound: float) -> None:
    for channels in (72, 5):
        features = random(2, channels, *SIZE, kind=run.kind)
        check_gram(emulator, run, features, MASKS["soft"], bound)
        check_gram(emulator, run, features, MASKS["some pixels in none"], bound)
    check_loss(emulator, run, features, MASKS["soft"], bound)
    # A segment with many partials.
    check_gram(emulator, run, random(1, 3, 24, 17, kind=run.kind), np.ones((1, 24, 17), dtype=np.float32), bound)
    if run.exact or run.channels_last:
        return
    # Blocks with several segments and enough steps to fill the pipeline; more groups than tiles, and fewer.
    check_gram(emulator, run, random(132, 3, *SIZE, kind=run.kind), MASKS["soft"], bound)
    check_gram(emulator, run, random(132, 1, 24, 17, kind=run.kind), hard_masks(3, 24, 17), bound)


def check_backward_kernel(emulator: Any, run: Run, bound: float) -> None:
    for channels in (72, 5):
        features = random(2, channels, *SIZE, kind=run.kind)
        check_backward(emulator, run, features, MASKS["soft"], bound)
        check_backward(emulator, run, features, MASKS["some pixels in none"], bound)


def check_layer_kernels(emulator: Any, run: Run) -> None:
    for shape in ((2, 16, 5, 3), (1, 3, 2, 5)):
        for inputs in INPUTS:
            check_convolution_input(emulator, run, shape, inputs)
            check_relu_backward(emulator, run, shape, inputs)
        check_feature_loss(emulator, run, shape)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", TYPES)
def test_without_a_fault_nothing_shows(emulator: Any, kernel: str, kind: str) -> None:
    check(emulator, kernel, kind, range(2, 3))


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_fault_shows(mutant: Mutant, emulator_objects: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(CSRC / "cuda", tmp_path / "csrc/cuda")
    shutil.copytree(CSRC / "tests", tmp_path / "csrc/tests")
    source = tmp_path / "csrc/cuda" / (mutant.file or f"{mutant.kernel}.cuh")
    text = source.read_text()
    assert text.count(mutant.old) == 1, "the text to replace must be there once: has the kernel changed?"
    source.write_text(text.replace(mutant.old, mutant.new))
    only = f"-DINTARSIA_ONLY_TYPE={TYPES[mutant.kind]}"
    changed = compile_kernel(mutant.kernel, tmp_path, tmp_path / "csrc", only, "-Wno-error")
    module = link((emulator_objects | {mutant.kernel: changed}).values(), tmp_path)
    with pytest.raises((AssertionError, RuntimeError)) as shown:
        check(module, mutant.kernel, mutant.kind, range(4))
    if mutant.shown_by == WRONG:
        assert shown.type is AssertionError
    else:
        assert re.search(mutant.shown_by, str(shown.value))
