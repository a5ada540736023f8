"""What torch asks of an operator: its schema, fake kernels and gradients are true, and it compiles."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from intarsia_server import ops
from ops_cases import features, soft_masks
from ops_checks import plan_of, targets_of
from ops_samples import FALLBACK, Arguments, operator, samples, tensors
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

Result = TypeVar("Result")
OPCHECK_LAYOUTS = ("contiguous", "channels_last", "padded")
WITHOUT_GRADIENT = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


def _asking_for_gradient(arguments: Arguments) -> Arguments:
    return (arguments[0].requires_grad_(), *arguments[1:])


def test_opcheck_masked_gram(device: torch.device) -> None:
    for _, arguments in samples("masked_gram", device, layouts=OPCHECK_LAYOUTS, shape=(2, 5, 9, 15)):
        torch.library.opcheck(operator("masked_gram"), _asking_for_gradient(arguments))


def _opcheck_without_gradient(name: str, device: torch.device) -> None:
    for _, arguments in samples(name, device, layouts=OPCHECK_LAYOUTS, shape=(2, 5, 9, 15)):
        torch.library.opcheck(operator(name), arguments, test_utils=WITHOUT_GRADIENT)


# opcheck goes back from all outputs at once. Of these operators one output has no gradient, or none of them has.


def test_opcheck_masked_gram_loss(device: torch.device) -> None:
    _opcheck_without_gradient("masked_gram_loss", device)


def test_opcheck_masked_gram_backward(device: torch.device) -> None:
    _opcheck_without_gradient("masked_gram_backward", device)


def test_opcheck_masked_tv(device: torch.device) -> None:
    _opcheck_without_gradient("masked_tv", device)


def test_opcheck_convolution_input(device: torch.device) -> None:
    _opcheck_without_gradient("convolution_input", device)


def test_opcheck_relu_backward(device: torch.device) -> None:
    _opcheck_without_gradient("relu_backward", device)


def test_opcheck_feature_loss(device: torch.device) -> None:
    _opcheck_without_gradient("feature_loss", device)


def test_opcheck_autograd_registration(device: torch.device) -> None:
    for name in ("masked_gram", "masked_gram_loss", "masked_tv"):
        for _, arguments in samples(name, device, layouts=("contiguous",), shape=(2, 5, 9, 15)):
            asking = _asking_for_gradient(arguments)
            torch.library.opcheck(operator(name), asking, test_utils="test_autograd_registration")


def _significant_strides(tensor: Tensor) -> list[int]:
    """Those of dimensions with more than one element; others place nothing."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def test_fake_outputs_lie_like_the_real_ones(device: torch.device) -> None:
    for name in FALLBACK:
        for shape in ((2, 70, 9, 15), (1, 1, 9, 15), (2, 5, 1, 1)):
            for what, arguments in samples(name, device, shape=shape):
                real = tensors(operator(name)(*arguments))
                with FakeTensorMode() as mode:
                    given = [mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments]
                    fake = tensors(operator(name)(*given))
                for got, wanted in zip(fake, real, strict=True):
                    assert (got.shape, got.dtype, got.device) == (wanted.shape, wanted.dtype, wanted.device), what
                    assert _significant_strides(got) == _significant_strides(wanted), what


def _objectives(device: torch.device, dtype: torch.dtype) -> dict[str, Callable[[Tensor], Tensor]]:
    plan = plan_of(soft_masks(3, 9, 15), torch.empty(0, dtype=dtype, device=device))
    targets, factors = targets_of(torch.empty(3), 20, plan.mass)
    weight = soft_masks(1, 9, 15)[0].to(plan.mass)

    def gram(x: Tensor) -> Tensor:
        moments = ops.masked_gram(x, plan)
        return moments.gram.square().sum() + moments.mean.sum()

    return {
        "gram": gram,
        "gram alone": lambda x: ops.masked_gram(x, plan).gram.square().sum(),
        "loss": lambda x: ops.masked_gram_loss(x, plan, targets, factors).sum(),
        "tv": lambda x: ops.masked_tv(x, weight),
        "tv, product": lambda x: ops.masked_tv(x, weight, product=True),
        "plain tv": ops.masked_tv,
    }


def _value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    value = function(x)
    return value.detach(), torch.autograd.grad(value, x)[0]


def _compiled(function: Callable[[Tensor], Result], backend: str) -> Callable[[Tensor], Result]:
    torch._dynamo.reset()
    compiled: Any = torch.compile(function, fullgraph=True, backend=backend)
    result: Callable[[Tensor], Result] = compiled
    return result


def test_compiles_in_one_graph(device: torch.device, dtype: torch.dtype) -> None:
    for layout in ("contiguous", "channels_last", "padded"):
        x = features((2, 20, 9, 15), dtype, layout, device=device)
        for name, function in _objectives(device, dtype).items():
            eager = _value_and_gradient(function, x)
            compiled = _value_and_gradient(_compiled(function, "aot_eager"), x)
            assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True)), (name, layout)
            assert eager[1].stride() == compiled[1].stride(), (name, layout)


def test_compiles_for_changing_shapes(device: torch.device) -> None:
    """One graph for feature maps of all sizes, where the caller hands in masks and plan."""

    def function(x: Tensor, weight: Tensor, plan: ops.MaskPlan) -> Tensor:
        return ops.masked_tv(x, weight) + ops.masked_gram(x, plan).gram.square().sum()

    torch._dynamo.reset()
    compiled: Any = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for height, width in ((5, 6), (9, 11), (12, 7)):
        x = features((1, 3, height, width), torch.float32, device=device)
        masks = soft_masks(2, height, width)
        weight, plan = masks[0].to(device, torch.float32), plan_of(masks, x)
        assert torch.equal(compiled(x, weight, plan), function(x, weight, plan))


def test_compiles_layers_in_one_graph(device: torch.device, dtype: torch.dtype) -> None:
    """A convolution's way there and back, and a loss; none of them asks for a gradient."""

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        inputs = ops.convolution_input(x, pool=True, pad=True)
        loss, gradient = ops.feature_loss(inputs, 2 * inputs, None, 0.3)
        return loss, ops.relu_backward(x, gradient, pooled=True, padded=True, added=x)

    x = features((2, 20, 9, 15), dtype, "channels_last", device=device).detach()
    for got, wanted in zip(_compiled(function, "aot_eager")(x), function(x), strict=True):
        assert torch.equal(got, wanted)
        assert got.stride() == wanted.stride()


def test_compiles_with_inductor(device: torch.device) -> None:
    functions = _objectives(device, torch.float32)

    def objective(x: Tensor) -> Tensor:
        return functions["loss"](x) + functions["tv"](x)

    x = features((2, 20, 9, 15), torch.float32, "channels_last", device=device)
    eager, compiled = (_value_and_gradient(f, x) for f in (objective, _compiled(objective, "inductor")))
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


def test_the_compiler_is_not_imported() -> None:
    """It takes longer than all else of a worker's imports together."""
    code = "import intarsia_server.executors.worker, sys; print('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
