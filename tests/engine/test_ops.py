"""The ops against dense float64 sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia_server.ops import build_plan, masked_gram, masked_tv
from torch import Tensor


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hard_masks(segments: int, height: int, width: int, seed: int = 0) -> Tensor:
    labels = torch.randint(segments, (height, width), generator=torch.Generator().manual_seed(seed))
    return torch.stack([labels == r for r in range(segments)]).double()


def soft_masks(segments: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Overlapping; about a third of the weights are 0 and some are 1."""
    values = torch.rand(segments, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (1.6 * values - 0.5).clamp(0, 1)


def dense(features: Tensor, masks: Tensor) -> Tensor:
    """G_r = sum_p m_r f f^T / sum_p m_r, zeros where there is no weight."""
    x, m = features.double(), masks.double()
    mass = m.sum(dim=(1, 2))
    sums = torch.einsum("nchw,rhw,ndhw->nrcd", x, m, x)
    return sums / torch.where(mass > 0, mass, torch.ones_like(mass))[:, None, None]


MASKS = {
    "hard": hard_masks(3, 6, 7),
    "soft": soft_masks(3, 6, 7),
    "one full": torch.ones(1, 6, 7, dtype=torch.float64),
    "full, then part": torch.stack([torch.ones(6, 7).double(), hard_masks(2, 6, 7)[0]]),
    "part, then full": torch.stack([hard_masks(2, 6, 7)[0], torch.ones(6, 7).double()]),
    "two full": torch.ones(2, 6, 7, dtype=torch.float64),
    "full but soft": torch.full((1, 6, 7), 0.25, dtype=torch.float64),
    "one empty": torch.stack([torch.zeros(6, 7).double(), torch.ones(6, 7).double()]),
    "one pixel": torch.nn.functional.one_hot(torch.tensor(17), 42).double().reshape(1, 6, 7),
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("batch", [1, 2])
def test_gram_is_the_dense_sum(masks: Tensor, batch: int) -> None:
    features = random(batch, 5, 6, 7)
    gram, mass = masked_gram(features, build_plan(masks))
    assert gram.shape == (batch, len(masks), 5, 5)
    torch.testing.assert_close(gram, dense(features, masks))
    torch.testing.assert_close(mass, masks.sum(dim=(1, 2)))


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_gram_gradient(masks: Tensor) -> None:
    plan = build_plan(masks)
    features = random(2, 4, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: masked_gram(x, plan).gram, features)


def test_empty_segment_gives_zeros_and_no_gradient() -> None:
    features = random(1, 4, 6, 7, dtype=torch.float32).requires_grad_()
    gram, mass = masked_gram(features, build_plan(torch.zeros(2, 6, 7)))
    (gradient,) = torch.autograd.grad(gram.square().sum() + gram.sum(), features)
    assert mass.tolist() == [0, 0]
    assert not gram.any()
    assert not gradient.any()


def test_gram_is_symmetric() -> None:
    gram = masked_gram(random(2, 16, 6, 7, dtype=torch.float32), build_plan(hard_masks(3, 6, 7).float())).gram
    torch.testing.assert_close(gram, gram.transpose(2, 3), rtol=1e-6, atol=1e-6)


def strided(features: Tensor, layout: str) -> Tensor:
    """The same values, lying differently in memory."""
    batch, channels, height, width = features.shape
    match layout:
        case "channels_last":
            return features.contiguous(memory_format=torch.channels_last)
        case "padded":
            big = features.new_zeros(batch, channels + 1, 2 * height, width + 3)
            view = big[:, 1:, ::2, 2 : 2 + width]
        case "transposed":
            view = features.new_zeros(width, height, channels, batch).permute(3, 2, 1, 0)
        case _:
            return features.contiguous()
    view.copy_(features)
    return view


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "padded", "transposed"])
def test_strides_do_not_matter(layout: str) -> None:
    features, masks = random(2, 5, 6, 7), soft_masks(3, 6, 7)
    upstream = random(2, 3, 5, 5, seed=1)
    plain, laid_out = features.clone().requires_grad_(), strided(features, layout).requires_grad_()
    torch.testing.assert_close(laid_out, plain)
    (expected,) = torch.autograd.grad((dense(plain, masks) * upstream).sum(), plain)
    gram = masked_gram(laid_out, build_plan(masks)).gram
    (gradient,) = torch.autograd.grad((gram * upstream).sum(), laid_out)
    torch.testing.assert_close(gram, dense(features, masks))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_are_float32_whatever_comes_in(dtype: torch.dtype) -> None:
    """A bfloat16 sum over so many pixels would stop growing at a few hundred."""
    features = (random(1, 3, 64, 64).abs() + 1).to(dtype).requires_grad_()
    masks = hard_masks(2, 64, 64)
    gram, mass = masked_gram(features, build_plan(masks.float()))
    assert gram.dtype == mass.dtype == torch.float32
    torch.testing.assert_close(gram.double(), dense(features, masks), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(gram.sum(), features)
    assert gradient.dtype == dtype


def test_weight_is_m_and_not_its_square() -> None:
    """Two half masks that overlap everywhere sum to the whole's energy."""
    features = random(1, 4, 6, 7)
    halves = masked_gram(features, build_plan(torch.full((2, 6, 7), 0.5, dtype=torch.float64)))
    whole = masked_gram(features, build_plan(torch.ones(1, 6, 7, dtype=torch.float64)))
    sums = (halves.gram * halves.mass[:, None, None]).sum(dim=1)
    torch.testing.assert_close(sums, whole.gram[:, 0] * whole.mass)


def test_plan_of_another_size_is_refused() -> None:
    plan = build_plan(torch.ones(1, 6, 7))
    with pytest.raises(ValueError, match=r"\(6, 7\).*\(7, 6\)"):
        masked_gram(random(1, 4, 7, 6), plan)


def test_double_backward_is_refused() -> None:
    features = random(1, 4, 6, 7).requires_grad_()
    gram = masked_gram(features, build_plan(torch.ones(1, 6, 7))).gram
    (gradient,) = torch.autograd.grad(gram.square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_same_input_same_bits() -> None:
    plan = build_plan(soft_masks(3, 32, 32).float())
    results = []
    for _ in range(2):
        features = random(1, 32, 32, 32, dtype=torch.float32).requires_grad_()
        gram = masked_gram(features, plan).gram
        results.append((gram, *torch.autograd.grad(gram.square().sum(), features)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 8), st.integers(1, 8)),
    segments=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    soft=st.booleans(),
    empty=st.booleans(),
)
def test_any_shape_and_mask(
    shape: tuple[int, int, int, int], segments: int, seed: int, soft: bool, empty: bool
) -> None:
    batch, channels, height, width = shape
    features = random(batch, channels, height, width, seed=seed).requires_grad_()
    masks = (soft_masks if soft else hard_masks)(segments, height, width, seed)
    if empty:
        masks[seed % segments] = 0
    upstream = random(batch, segments, channels, channels, seed=seed + 1)
    gram = masked_gram(features, build_plan(masks)).gram
    expected = dense(features, masks)
    torch.testing.assert_close(gram, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad((g * upstream).sum(), features)[0] for g in (gram, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)


def brute_tv(image: np.ndarray, weight: np.ndarray) -> float:
    batch, channels, height, width = image.shape
    total = 0.0
    for n, c, y, x in np.ndindex(image.shape):
        if y + 1 < height:
            total += (weight[y, x] + weight[y + 1, x]) / 2 * (image[n, c, y + 1, x] - image[n, c, y, x]) ** 2
        if x + 1 < width:
            total += (weight[y, x] + weight[y, x + 1]) / 2 * (image[n, c, y, x + 1] - image[n, c, y, x]) ** 2
    return float(total / (batch * channels * height * width))


TV_SHAPES = [(1, 3, 5, 6), (2, 3, 4, 7), (1, 1, 1, 6), (1, 2, 6, 1)]


@pytest.mark.parametrize("shape", TV_SHAPES)
@pytest.mark.parametrize("kind", ["plain", "weighted", "product"])
def test_tv_is_the_dense_sum(shape: tuple[int, int, int, int], kind: str) -> None:
    image = random(*shape).requires_grad_()
    weight = None if kind == "plain" else soft_masks(1, *shape[2:])[0]
    if kind == "product":
        assert weight is not None
        expected = brute_tv((image * weight).detach().numpy(), np.ones(shape[2:]))
    else:
        expected = brute_tv(image.detach().numpy(), np.ones(shape[2:]) if weight is None else weight.numpy())
    assert float(masked_tv(image, weight, product=kind == "product").detach()) == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: masked_tv(x, weight, product=kind == "product"), image)


def test_only_the_product_pulls_towards_grey() -> None:
    """A flat picture has no variation; the product with a falling map has one."""
    flat = torch.full((1, 3, 6, 7), 2.0, dtype=torch.float64)
    border = soft_masks(1, 6, 7)[0]
    assert float(masked_tv(flat, border)) == 0
    assert float(masked_tv(flat, border, product=True)) > 0
