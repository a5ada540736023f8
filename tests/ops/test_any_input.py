"""The operators on random shapes, masks and strides, against float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import LAYOUTS, features, hard_masks, soft_masks
from ops_checks import (
    check_convolution_input,
    check_feature_loss,
    check_gram,
    check_gram_loss,
    check_relu_backward,
    check_tv,
)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 140), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    layout=st.sampled_from(tuple(LAYOUTS)),
    segments=st.integers(1, 8),
    uncovered=st.sampled_from([None, 0.0, 0.3, 0.9]),
    empty=st.sets(st.integers(0, 7), max_size=3),
    product=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_input(
    device: torch.device,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    layout: str,
    segments: int,
    uncovered: float | None,
    empty: set[int],
    product: bool,
    seed: int,
) -> None:
    """Hard masks leave a share of the pixels uncovered, soft ones (None) overlap; some are empty."""
    height, width = shape[2:]
    if uncovered is None:
        masks = soft_masks(segments, height, width, seed=seed)
    else:
        masks = hard_masks(segments, height, width, uncovered=uncovered, seed=seed)
    for number in empty:
        masks[number % segments] = 0
    x = features(shape, dtype, layout, device=device, seed=seed)
    check_gram(x, masks, seed=seed + 1)
    check_gram_loss(x, masks, seed=seed + 1)
    check_tv(x, soft_masks(1, height, width, seed=seed)[0], product=product)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 20), st.integers(1, 20)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    layout=st.sampled_from(("channels_last", "channels_last offset")),
    pool=st.booleans(),
    pad=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_feature_map(
    device: torch.device,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    layout: str,
    pool: bool,
    pad: bool,
    weighted: bool,
    seed: int,
) -> None:
    x = features(shape, dtype, layout, device=device, seed=seed).detach()
    pool = pool and min(shape[2:]) > 1
    check_convolution_input(x, pool=pool, pad=pad)
    check_relu_backward(x, pooled=pool, padded=pad, seed=seed + 1)
    check_feature_loss(x, soft_masks(1, *shape[2:], seed=seed)[0] if weighted else None, seed=seed + 1)
