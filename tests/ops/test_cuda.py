"""What holds on a GPU alone: other streams, CUDA graphs, tensors on two devices. Not collected without one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from intarsia_server import ops
from ops_cases import features, hard_masks, random, soft_masks
from ops_checks import plan_of, targets_of
from ops_samples import FALLBACK, operator, samples, tensors
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last")


def _objective(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Every operator, on features [1, 130, 33, 37]."""
    hard = plan_of(hard_masks(3, 33, 37, uncovered=0.2), torch.empty(0, device=device))
    soft = plan_of(soft_masks(3, 33, 37), torch.empty(0, device=device))
    targets, factors = targets_of(torch.empty(3), 130, hard.mass)
    weight = soft_masks(1, 33, 37)[0].to(hard.mass)

    def objective(x: Tensor) -> Tensor:
        gram, mean, _ = ops.masked_gram(x, soft)
        losses = ops.masked_gram_loss(x, hard, targets, factors)
        return losses.sum() + gram.square().sum() + mean.sum() + ops.masked_tv(x, weight)

    return objective


def _value_and_gradient(objective: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    value = objective(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def test_stream_operators(device: torch.device) -> None:
    """Work on another stream waits for what is before it there: inputs appear only after a long delay."""
    stream = torch.cuda.Stream()
    for name in FALLBACK:
        for what, (x, *rest) in samples(name, device, shape=(1, 70, 33, 37), layouts=LAYOUTS):
            expected = tensors(operator(name)(x, *rest))
            late = torch.zeros_like(x)
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(20_000_000)
                late.copy_(x)
                got = tensors(operator(name)(late, *rest))
                kept = [tensor.clone() for tensor in got]
                late.fill_(torch.nan)
            stream.synchronize()
            assert all(torch.equal(a, b) for a, b in zip(kept, expected, strict=True)), what


def test_stream_gradients(device: torch.device) -> None:
    objective, stream = _objective(device), torch.cuda.Stream()
    x = features((1, 130, 33, 37), torch.float32, "channels_last", device=device).detach()
    expected = _value_and_gradient(objective, x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        got = _value_and_gradient(objective, x.clone(memory_format=torch.preserve_format))
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_graph_operators(device: torch.device) -> None:
    """A captured call reads its inputs anew at each replay."""
    for name in FALLBACK:
        for what, (x, *rest) in samples(name, device, shape=(1, 70, 33, 37), layouts=LAYOUTS):
            given = x.clone(memory_format=torch.preserve_format)
            operator(name)(given, *rest)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = tensors(operator(name)(given, *rest))
            for seed in range(3):
                given.copy_(random(*x.shape, seed=seed + 10).to(x))
                graph.replay()
                expected = tensors(operator(name)(given, *rest))
                assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True)), what


def test_graph_gradients(device: torch.device) -> None:
    """A whole step, forward and backward, in one graph."""
    objective = _objective(device)
    for layout in LAYOUTS:
        given = features((1, 130, 33, 37), torch.float32, layout, device=device).detach()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                _value_and_gradient(objective, given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = _value_and_gradient(objective, given)
        for seed in range(3):
            given.copy_(random(1, 130, 33, 37, seed=seed + 10).to(given))
            graph.replay()
            expected = _value_and_gradient(objective, given)
            assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True)), layout


def test_second_device(device: torch.device) -> None:
    """Kernels run where the features are, whatever the current device."""
    if device.type != "cuda" or torch.cuda.device_count() < 2:
        return
    for name in FALLBACK:
        for what, arguments in samples(name, device, layouts=("contiguous",)):
            moved = [a.to("cuda:1") if isinstance(a, Tensor) else a for a in arguments]
            pairs = zip(tensors(operator(name)(*moved)), tensors(operator(name)(*arguments)), strict=True)
            assert all(torch.equal(a.cpu(), b.cpu()) for a, b in pairs), what


def test_small_calls_for_the_sanitizer(device: torch.device) -> None:
    """Each operator once with each type, layout and kind of masks, about the edges of tiles and channel blocks."""
    for name in FALLBACK:
        for shape in ((2, 70, 9, 15), (1, 131, 7, 11), (1, 1, 1, 1), (1, 64, 8, 16)):
            for what, arguments in samples(name, device, shape=shape):
                for output in tensors(operator(name)(*arguments)):
                    assert output.isfinite().all(), what


def _refusal(call: Callable[[], object]) -> str:
    """In words; this file has to run where pytest is missing."""
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "nothing was refused"


def test_masks_on_another_device(device: torch.device) -> None:
    x = features((1, 5, 9, 15), torch.float32, device=device)
    plan = ops.build_plan(soft_masks(3, 9, 15).float())
    assert "is on another device than the features" in _refusal(lambda: ops.masked_gram(x, plan))
    assert "is on another device than the features" in _refusal(lambda: ops.masked_tv(x, torch.ones(9, 15)))
