"""The operators in plain torch give what the compiled kernels give."""

from __future__ import annotations

import torch
from intarsia_server import ops
from intarsia_server.ops import fallback
from ops_cases import accumulator, features, hard_masks
from ops_checks import plan_of, plan_tensors
from ops_samples import FALLBACK, operator, samples, tensors


def test_compiled_kernels_are_in_use(device: torch.device) -> None:
    assert ops.IMPLEMENTATION.startswith("native")
    assert device.type in ops.IMPLEMENTATION


def _assert_same(name: str, device: torch.device) -> None:
    for what, arguments in samples(name, device):
        native, plain = (tensors(function(*arguments)) for function in (operator(name), FALLBACK[name]))
        for got, wanted in zip(native, plain, strict=True):
            assert (got.shape, got.dtype, got.device) == (wanted.shape, wanted.dtype, wanted.device), what
            assert got.stride() == wanted.stride(), what
            rounding = 2.0**-40 if got.dtype == torch.float64 else 2.0**-12
            if name == "masked_gram_loss" and arguments[0].dtype == torch.bfloat16:
                rounding = 2.0**-7  # weighted features are rounded, too
            # Beside the largest value: what cancels has the rounding of what it is made of.
            bound = (8 * torch.finfo(got.dtype).eps + rounding) * float(wanted.abs().max())
            assert float((got.double() - wanted.double()).abs().max()) <= bound, what


def test_masked_gram(device: torch.device) -> None:
    _assert_same("masked_gram", device)


def test_masked_gram_loss(device: torch.device) -> None:
    _assert_same("masked_gram_loss", device)


def test_masked_gram_backward(device: torch.device) -> None:
    _assert_same("masked_gram_backward", device)


def test_masked_tv(device: torch.device) -> None:
    _assert_same("masked_tv", device)


def test_convolution_input(device: torch.device) -> None:
    _assert_same("convolution_input", device)


def test_relu_backward(device: torch.device) -> None:
    _assert_same("relu_backward", device)


def test_feature_loss(device: torch.device) -> None:
    _assert_same("feature_loss", device)


def test_plain_torch_is_symmetric_too(device: torch.device) -> None:
    x = features((2, 70, 9, 15), torch.float32, device=device).detach()
    plan = plan_of(hard_masks(3, 9, 15), x)
    gram, _ = fallback.masked_gram(x, *plan_tensors(plan), plan.mass, True)
    assert torch.equal(gram, gram.mT)


def test_plain_torch_serves_float16_everywhere(device: torch.device) -> None:
    x = features((1, 5, 9, 15), torch.float16, device=device).detach()
    plan = plan_of(hard_masks(3, 9, 15), x)
    gram, mean = fallback.masked_gram(x, *plan_tensors(plan), plan.mass, True)
    wide, wide_mean = fallback.masked_gram(x.float(), *plan_tensors(plan), plan.mass, True)
    assert gram.dtype == mean.dtype == accumulator(x.dtype)
    assert torch.equal(gram, wide)
    assert torch.equal(mean, wide_mean)
