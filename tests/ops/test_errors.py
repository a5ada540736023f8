"""What is refused, and in which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from intarsia_server import ops
from ops_cases import accumulator, features, hard_masks, random, soft_masks
from ops_checks import plan_of, targets_of
from ops_samples import CHANNELS_LAST, operator, samples, tensors
from torch import Tensor

Call = Callable[[Tensor], Tensor]


@pytest.fixture
def calls(device: torch.device, dtype: torch.dtype) -> dict[str, Call]:
    """Each function of the package, of features [1, 5, 9, 15] alone."""
    plan = plan_of(soft_masks(3, 9, 15), torch.empty(0, dtype=dtype, device=device))
    targets, factors = targets_of(torch.empty(3), 5, plan.mass)
    weight = soft_masks(1, 9, 15)[0].to(plan.mass)
    return {
        "masked_gram": lambda x: ops.masked_gram(x, plan).gram,
        "masked_gram, mean": lambda x: ops.masked_gram(x, plan).mean,
        "masked_gram_loss": lambda x: ops.masked_gram_loss(x, plan, targets, factors),
        "masked_tv": lambda x: ops.masked_tv(x, weight),
    }


@pytest.mark.parametrize("name", ["masked_gram", "masked_gram, mean", "masked_gram_loss", "masked_tv"])
@pytest.mark.parametrize("curved", [False, True], ids=["linear", "squared"])
def test_double_backward(
    calls: dict[str, Call], dtype: torch.dtype, device: torch.device, name: str, curved: bool
) -> None:
    x = features((1, 5, 9, 15), dtype, device=device)
    value = calls[name](x)
    (gradient,) = torch.autograd.grad((value.square() if curved else value).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not supported"):
        gradient.square().sum().backward()


def test_gradients_of_what_serves_the_backward_pass(device: torch.device) -> None:
    """The second outputs of two operators, which the functions of the package do not hand out."""
    messages = {
        "masked_gram_loss": "the difference is for the backward pass, it has no gradient",
        "masked_tv": "double backward is not supported",
    }
    for name, message in messages.items():
        for _, arguments in samples(name, device, layouts=("contiguous",)):
            arguments[0].requires_grad_()
            _, second = operator(name)(*arguments)
            with pytest.raises(RuntimeError, match=message):
                second.sum().backward()


def test_gradients_of_what_the_encoder_walks_back_by_itself(device: torch.device) -> None:
    for name in CHANNELS_LAST:
        for _, (x, *rest) in samples(name, device):
            *_, result = tensors(operator(name)(x.requires_grad_(), *rest))
            with pytest.raises(RuntimeError, match=f"{name} is part of the encoder's own way back"):
                result.sum().backward()


def test_gradients_of_masks(device: torch.device) -> None:
    x = features((1, 5, 9, 15), torch.float32, device=device)
    plan = plan_of(soft_masks(3, 9, 15), x)
    assert plan.weights is not None
    message = "has a gradient by its first argument only; detach masks and targets"
    for changed in (
        replace(plan, weights=plan.weights.clone().requires_grad_()),
        replace(plan, mass=plan.mass.clone().requires_grad_()),
    ):
        with pytest.raises(RuntimeError, match=f"masked_gram {message}"):
            ops.masked_gram(x, changed).gram.sum().backward()
        with pytest.raises(RuntimeError, match=f"masked_gram {message}"):
            ops.masked_gram(x.detach(), changed).gram.sum().backward()


def test_gradients_of_targets_and_factors(device: torch.device) -> None:
    x = features((1, 5, 9, 15), torch.float32, device=device)
    plan = plan_of(soft_masks(3, 9, 15), x)
    targets, factors = targets_of(torch.empty(3), 5, plan.mass)
    for given in ((targets.clone().requires_grad_(), factors), (targets, factors.clone().requires_grad_())):
        with pytest.raises(RuntimeError, match="masked_gram_loss has a gradient by its first argument only"):
            ops.masked_gram_loss(x, plan, *given).sum().backward()


def test_gradients_of_the_tv_weight(device: torch.device) -> None:
    image = features((1, 3, 9, 15), torch.float32, device=device)
    weight = torch.ones(9, 15, device=device, requires_grad=True)
    with pytest.raises(RuntimeError, match="masked_tv has a gradient by its first argument only"):
        ops.masked_tv(image, weight).backward()


def test_plan_of_another_size(device: torch.device) -> None:
    x = features((1, 4, 7, 6), torch.float32, device=device)
    plan = plan_of(torch.ones(1, 6, 7), x)
    with pytest.raises(ValueError, match=r"plan is for \(6, 7\), features are \(7, 6\)"):
        ops.masked_gram(x, plan)
    with pytest.raises(ValueError, match=r"plan is for \(6, 7\), features are \(7, 6\)"):
        ops.masked_gram_loss(x, plan, torch.ones(1, 4, 4, device=device), torch.ones(1, device=device))


@pytest.mark.parametrize("targets", [(2, 5, 5), (3, 4, 4), (3, 5), (1, 3, 5, 5)], ids=str)
def test_targets_of_another_size(device: torch.device, targets: tuple[int, ...]) -> None:
    x = features((1, 5, 9, 15), torch.float32, device=device)
    plan = plan_of(soft_masks(3, 9, 15), x)
    with pytest.raises(ValueError, match=r"targets are \(.*\), factors \(3,\); \(3, 5, 5\) is needed"):
        ops.masked_gram_loss(x, plan, torch.ones(targets, device=device), torch.ones(3, device=device))


def test_factors_of_another_size(device: torch.device) -> None:
    x = features((1, 5, 9, 15), torch.float32, device=device)
    plan = plan_of(soft_masks(3, 9, 15), x)
    with pytest.raises(ValueError, match=r"factors \(2,\); \(3, 5, 5\) is needed"):
        ops.masked_gram_loss(x, plan, torch.ones(3, 5, 5, device=device), torch.ones(2, device=device))


@pytest.mark.parametrize("size", [(15, 9), (9,), (1, 9, 15)], ids=str)
def test_tv_weight_of_another_size(device: torch.device, size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weight is \(.*\), image is \(9, 15\)"):
        ops.masked_tv(features((1, 3, 9, 15), torch.float32, device=device), torch.ones(size, device=device))


def test_features_of_a_type_without_kernels(device: torch.device) -> None:
    """Integers anywhere, float16 on a CPU."""
    for dtype in (torch.int32, *([torch.float16] if device.type == "cpu" else [])):
        x = random(1, 3, 9, 15).to(device, dtype)
        plan = ops.build_plan(torch.ones(1, 9, 15, device=device))
        with pytest.raises(RuntimeError, match=r"features must be float32"):
            ops.masked_gram(x, plan)
        with pytest.raises(RuntimeError, match=r"image must be float32"):
            ops.masked_tv(x)


def test_masks_of_another_type(device: torch.device, dtype: torch.dtype) -> None:
    """Masks are float32, and float64 for float64."""
    x = features((1, 5, 9, 15), dtype, device=device)
    wrong = torch.float32 if accumulator(dtype) == torch.float64 else torch.float64
    for masks in (soft_masks(3, 9, 15), hard_masks(3, 9, 15)):
        with pytest.raises(ValueError, match=f"plan is of {wrong} masks, {dtype} features need"):
            ops.masked_gram(x, ops.build_plan(masks.to(device, wrong)))
    with pytest.raises(RuntimeError, match="weight has the wrong type"):
        ops.masked_tv(x, torch.ones(9, 15, dtype=wrong, device=device))


def test_targets_of_another_type(device: torch.device, dtype: torch.dtype) -> None:
    x = features((1, 5, 9, 15), dtype, device=device)
    plan = plan_of(soft_masks(3, 9, 15), x)
    targets, factors = targets_of(torch.empty(3), 5, plan.mass)
    with pytest.raises(RuntimeError, match="targets has the wrong type"):
        ops.masked_gram_loss(x, plan, targets.bfloat16(), factors)
    with pytest.raises(RuntimeError, match="factors has the wrong type"):
        ops.masked_gram_loss(x, plan, targets, factors.bfloat16())


def _with(position: int, change: Callable[[Any], Any]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    return lambda arguments: (*arguments[:position], change(arguments[position]), *arguments[position + 1 :])


# By operator: what an argument is changed to, and what is said of it. These never come from the package's functions.
MALFORMED: list[tuple[str, int, Callable[[Any], Any], str]] = [
    ("masked_gram", 0, lambda x: x[0], r"features have 3 dimensions; \[N, C, H, W\] is needed"),
    ("masked_gram", 1, lambda x: x.long(), "indices has the wrong type"),
    ("masked_gram", 1, lambda x: x[:-1], "indices hold .* entries, not 64 for each of .* tiles"),
    ("masked_gram", 1, lambda x: x[None], "indices has 2 dimensions; 1 are needed"),
    ("masked_gram", 2, lambda x: x[:-64], "weights and indices differ in length"),
    ("masked_gram", 3, lambda x: x.long(), "tile_segments has the wrong type"),
    ("masked_gram", 4, lambda x: x[:0], r"group_tiles is \[0, 5\]; \[K, R \+ 2\] is needed"),
    ("masked_gram", 4, lambda x: x[:, :2].contiguous(), r"group_tiles is \[.*, 2\]; \[K, R \+ 2\] is needed"),
    ("masked_gram", 4, lambda x: x.T, "group_tiles is not contiguous"),
    ("masked_gram", 5, lambda x: x[:-1], "mass has size 2 in dimension 0, not 3"),
    ("masked_gram_loss", 6, lambda x: x[:-1], "targets has size 2 in dimension 0, not 3"),
    ("masked_gram_loss", 7, lambda x: x[None], "factors has 2 dimensions; 1 are needed"),
    ("masked_gram_backward", 5, lambda x: x[:, :-1].contiguous(), "matrices has size 2 in dimension 1, not 3"),
    ("masked_gram_backward", 5, lambda x: x.permute(0, 1, 3, 2), "matrices is not contiguous"),
    ("masked_gram_backward", 7, lambda x: x[:1], "scales has size 1 in dimension 0, not 2"),
    (
        "masked_gram_backward",
        8,
        lambda x: x[:, :, :-1].contiguous(),
        "mean_gradient has size 69 in dimension 2, not 70",
    ),
    ("masked_tv", 0, lambda x: x[0], r"image has 3 dimensions; \[N, C, H, W\] is needed"),
    ("masked_tv", 1, lambda x: x.T.contiguous(), "weight has size 15 in dimension 0, not 9"),
    ("convolution_input", 0, lambda x: x[0], r"features has 3 dimensions; \[N, C, H, W\] is needed"),
    ("convolution_input", 0, lambda x: x.contiguous(), "features is not channels_last"),
    ("convolution_input", 0, lambda x: x[:, :, :, :-1], "features is not channels_last"),
    ("convolution_input", 0, lambda x: x[:1, :, :1], "features of 1x15 leaves no pixel"),
    ("convolution_input", 0, lambda x: x.int(), "features must be float32"),
    ("relu_backward", 0, lambda x: x[0], r"output has 3 dimensions; \[N, C, H, W\] is needed"),
    ("relu_backward", 0, lambda x: x.contiguous(), "output is not channels_last"),
    ("relu_backward", 0, lambda x: x[:1, :, :1], "output of 1x15 leaves no pixel"),
    ("relu_backward", 1, lambda x: x.contiguous(), "gradient is not channels_last"),
    ("relu_backward", 1, lambda x: x.half(), "gradient has another type than the features"),
    ("relu_backward", 1, lambda x: x[:1], "gradient has size 1 in dimension 0, not 2"),
    ("relu_backward", 2, lambda _: False, "gradient has size 6 in dimension 2, not 11"),
    ("relu_backward", 3, lambda _: False, "gradient has size 6 in dimension 2, not 4"),
    ("relu_backward", 4, lambda x: x.contiguous(), "added is not channels_last"),
    ("relu_backward", 4, lambda x: x.half(), "added has another type than the features"),
    ("relu_backward", 4, lambda x: x[:1], "added has size 1 in dimension 0, not 2"),
    ("feature_loss", 0, lambda x: x[0], r"features has 3 dimensions; \[N, C, H, W\] is needed"),
    ("feature_loss", 0, lambda x: x.contiguous(), "features is not channels_last"),
    ("feature_loss", 1, lambda x: x.contiguous(), "target is not channels_last"),
    ("feature_loss", 1, lambda x: x.half(), "target has another type than the features"),
    ("feature_loss", 1, lambda x: x[:1], "target has size 1 in dimension 0, not 2"),
    ("feature_loss", 2, lambda x: x.half(), "weight has the wrong type"),
    ("feature_loss", 2, lambda x: x.T, "weight is not contiguous"),
    ("feature_loss", 2, lambda x: x.T.contiguous(), "weight has size 15 in dimension 0, not 9"),
]


@pytest.mark.parametrize(
    ("name", "position", "change", "message"), MALFORMED, ids=[f"{m[0]}: {m[3]}" for m in MALFORMED]
)
def test_malformed_arguments(
    device: torch.device, name: str, position: int, change: Callable[[Any], Any], message: str
) -> None:
    """Of the operators themselves, which check before they touch memory."""
    # The last sample of each has every optional argument.
    *_, (_, arguments) = samples(name, device, layouts=("contiguous", "channels_last"))
    operator(name)(*arguments)
    with pytest.raises(RuntimeError, match=message):
        operator(name)(*_with(position, change)(arguments))
