"""Calls of the operators, held against float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ops_dense
import torch
from intarsia_server import ops
from intarsia_server.ops import MaskPlan
from ops_cases import accumulator, laid_out, random
from ops_dense import Value
from torch import Tensor

Plan = tuple[Tensor, Tensor | None, Tensor, Tensor]


def plan_of(masks: Tensor, features: Tensor) -> MaskPlan:
    """The plan of float64 masks for these features."""
    return ops.build_plan(masks.to(features.device, accumulator(features.dtype)))


def plan_tensors(plan: MaskPlan) -> Plan:
    """A plan as the operators take it, without the masses."""
    return plan.indices, plan.weights, plan.tile_segments, plan.group_tiles


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Sets what float32 products may be rounded to."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def tolerance(features: Tensor) -> float:
    """The error of a sum, in parts of its size.

    On CUDA tensor cores add with truncation, and weights split a 16-bit type in two.
    """
    if features.dtype == torch.float64:
        return 2.0**-46
    if features.device.type == "cpu":
        return 2.0**-20
    if features.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return 2.0**-9
    return 2.0**-14


def loss_tolerance(features: Tensor, plan: MaskPlan) -> float:
    """The same of the sums behind a loss, whose products a CPU's bfloat16 unit forms where pixels lie as rows.

    Their left sides, weighted, are held as sums of two bfloat16 numbers, of 8 bits each.
    """
    rows = not features.is_contiguous() and features.is_contiguous(memory_format=torch.channels_last)
    on_unit = features.device.type == "cpu" and features.dtype == torch.bfloat16 and rows
    return tolerance(features) + (2.0**-16 if plan.weights is not None and on_unit else 0.0)


def gradient_tolerance(features: Tensor, passes: int) -> float:
    """The same of a gradient, which is stored in the features' type: once, and again in each later pass."""
    sums = tolerance(features)
    if accumulator(features.dtype) == features.dtype:
        return sums
    # A CPU with a bfloat16 unit also rounds the matrix and the product. The errors of many passes average out.
    return sums + (4 + min(passes, 4)) * torch.finfo(features.dtype).eps / 2


def assert_near(actual: Tensor, expected: Value, epsilon: float, what: str) -> None:
    """|actual - expected| <= epsilon size everywhere, but for what is too small for the type."""
    assert actual.shape == expected.value.shape, f"{what}: shape {actual.shape}, not {expected.value.shape}"
    error = (actual.detach().cpu().double() - expected.value).abs()
    smallest = torch.finfo(actual.dtype).tiny * torch.finfo(actual.dtype).eps
    # Not `error > bound`: NaN is no small error.
    bad = ~(error <= epsilon * expected.size + 4 * smallest)
    if bad.any():
        worst = (error / expected.size.clamp_min(1e-300))[bad].max()
        raise AssertionError(f"{what}: {int(bad.sum())} of {bad.numel()} are wrong, by {worst:.2e} of {epsilon:.2e}")


def assert_lies_like(gradient: Tensor, features: Tensor, what: str) -> None:
    """The gradient has the features' type, device and, where that is one of the two, layout."""
    assert (gradient.dtype, gradient.device, gradient.shape) == (features.dtype, features.device, features.shape), what
    kept = features.is_contiguous() or not features.is_contiguous(memory_format=torch.channels_last)
    layout = torch.contiguous_format if kept else torch.channels_last
    assert gradient.is_contiguous(memory_format=layout), f"{what}: strides {gradient.stride()} of {gradient.shape}"


def check_gram(features: Tensor, masks: Tensor, *, seed: int = 1) -> None:
    """Moments and their gradient: of both together, of the Gram matrices alone and of the means alone."""
    plan = plan_of(masks, features)
    sums, stored = tolerance(features), gradient_tolerance(features, len(plan.group_tiles))
    batch, channels = features.shape[:2]
    gram, mean, mass = ops.masked_gram(features, plan)
    expected_gram, expected_mean = ops_dense.gram(features, masks)
    assert gram.dtype == mean.dtype == mass.dtype == accumulator(features.dtype)
    assert_near(gram, expected_gram, sums, "gram")
    assert_near(mean, expected_mean, sums, "mean")
    assert_near(mass, Value(masks.sum(dim=(1, 2)), masks.sum(dim=(1, 2))), 2.0**-23, "mass")
    assert torch.equal(gram, gram.transpose(2, 3)), "gram: not symmetric"

    by_gram = random(batch, len(masks), channels, channels, seed=seed).to(gram)
    by_mean = random(batch, len(masks), channels, seed=seed + 1).to(gram)
    outputs = {"both": ([gram, mean], [by_gram, by_mean]), "gram": ([gram], [by_gram]), "mean": ([mean], [by_mean])}
    for name, (values, grads) in outputs.items():
        (gradient,) = torch.autograd.grad(values, features, grads, retain_graph=True)
        given = (None if name == "mean" else by_gram, None if name == "gram" else by_mean)
        expected = ops_dense.gram_gradient(features, masks, *given)
        assert_near(gradient, expected, stored, f"gradient by {name}")
        assert_lies_like(gradient, features, f"gradient by {name}")


def targets_of(masks: Tensor, channels: int, like: Tensor, *, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Random symmetric targets [R, C, C] and factors [R], one of them 0."""
    half = random(len(masks), channels, channels, seed=seed)
    factors = random(len(masks), seed=seed + 1).abs()
    factors[seed % len(masks)] *= len(masks) == 1
    return ((half + half.transpose(1, 2)) / 2).to(like), factors.to(like)


def check_gram_loss(features: Tensor, masks: Tensor, *, seed: int = 3, exact_weights: bool = False) -> None:
    """Losses, difference and gradient; `exact_weights`: even those of bfloat16 features are not rounded."""
    plan = plan_of(masks, features)
    sums = tolerance(features) if exact_weights else loss_tolerance(features, plan)
    stored = sums + gradient_tolerance(features, len(plan.group_tiles))
    targets, factors = targets_of(masks, features.shape[1], plan.mass, seed=seed)
    upstream = random(features.shape[0], len(masks), seed=seed + 2).to(plan.mass)
    losses = ops.masked_gram_loss(features, plan, targets, factors)
    exact = torch.get_float32_matmul_precision() == "highest"
    arguments = (features, *plan_tensors(plan), plan.mass, targets, factors, exact)
    _, difference = torch.ops.intarsia.masked_gram_loss(*arguments)
    expected = ops_dense.loss(features, masks, targets, factors, upstream)
    assert losses.dtype == difference.dtype == accumulator(features.dtype)
    # The sum of squares over all channel pairs adds its own rounding.
    assert_near(losses, expected[0], 2 * sums, "losses")
    assert_near(difference, expected[1], sums, "difference")
    assert torch.equal(difference, difference.transpose(2, 3)), "difference: not symmetric"
    (gradient,) = torch.autograd.grad(losses, features, upstream)
    assert_near(gradient, expected[2], 2 * stored, "gradient")
    assert_lies_like(gradient, features, "gradient")


def check_tv(image: Tensor, weight: Tensor | None, *, product: bool) -> None:
    """Loss and gradient, for an upstream gradient other than 1."""
    given = None if weight is None else weight.to(image.device, accumulator(image.dtype))
    loss = ops.masked_tv(image, given, product=product)
    expected, expected_gradient = ops_dense.tv(image, weight, product=product)
    epsilon = 2.0**-46 if image.dtype == torch.float64 else 2.0**-19
    assert loss.shape == ()
    assert loss.dtype == accumulator(image.dtype)
    assert_near(loss, expected, epsilon, "loss")
    (gradient,) = torch.autograd.grad(3 * loss, image)
    scaled = Value(3 * expected_gradient.value, 3 * expected_gradient.size)
    # Stored, then multiplied by the upstream gradient: two roundings.
    assert_near(gradient, scaled, epsilon + torch.finfo(image.dtype).eps, "gradient")
    assert_lies_like(gradient, image, "gradient")


def _stored(dtype: torch.dtype) -> float:
    """The error of a sum of a few numbers, in parts of its size, stored in a type."""
    sums = accumulator(dtype)
    return 4 * torch.finfo(sums).eps + (0 if dtype == sums else torch.finfo(dtype).eps / 2)


def check_convolution_input(features: Tensor, *, pool: bool, pad: bool) -> None:
    """Values, type and layout."""
    result = ops.convolution_input(features, pool=pool, pad=pad)
    expected = ops_dense.convolution_input(features, pool=pool, pad=pad)
    assert_near(result, expected, _stored(features.dtype), "input")
    assert result.dtype == features.dtype
    assert result.is_contiguous(memory_format=torch.channels_last)
    # A new tensor, always: convolutions' ReLUs work in place.
    assert result.data_ptr() != features.data_ptr()


def check_relu_backward(output: Tensor, *, pooled: bool, padded: bool, seed: int = 7) -> None:
    """With and without an added gradient."""
    shape = ops_dense.convolution_input(output, pool=pooled, pad=padded).value.shape
    gradient = laid_out(random(*shape, seed=seed).to(output), "channels_last")
    for added in (None, laid_out(random(*output.shape, seed=seed + 1).to(output), "channels_last")):
        result = ops.relu_backward(output, gradient, pooled=pooled, padded=padded, added=added)
        expected = ops_dense.relu_backward(output, gradient, added, pooled=pooled, padded=padded)
        # Up to 9 pixels of a padded gradient flow to one.
        assert_near(result, expected, 4 * _stored(accumulator(output.dtype)) + _stored(output.dtype), "gradient")
        assert result.dtype == output.dtype
        assert result.is_contiguous(memory_format=torch.channels_last)


def check_feature_loss(features: Tensor, weight: Tensor | None, *, factor: float = 0.3, seed: int = 9) -> None:
    """Loss and gradient; the weight is float64."""
    target = laid_out(random(*features.shape, seed=seed).to(features), "channels_last")
    given = None if weight is None else weight.to(features.device, accumulator(features.dtype))
    loss, gradient = ops.feature_loss(features, target, given, factor)
    expected, expected_gradient = ops_dense.feature_loss(features, target, weight, factor)
    assert loss.shape == ()
    assert loss.dtype == accumulator(features.dtype)
    assert_near(loss, expected, 2.0**-46 if features.dtype == torch.float64 else 2.0**-19, "loss")
    assert_near(gradient, expected_gradient, _stored(features.dtype), "gradient")
    assert gradient.dtype == features.dtype
    assert gradient.is_contiguous(memory_format=torch.channels_last)
