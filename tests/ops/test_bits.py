"""The same input gives the same bits: on every run, and with any number of threads."""

from __future__ import annotations

import torch
from ops_cases import Shape
from ops_samples import FALLBACK, Arguments, operator, samples, tensors
from torch import Tensor

SHAPES: tuple[Shape, ...] = ((1, 16, 120, 128), (2, 70, 33, 37), (1, 300, 24, 40), (1, 512, 12, 40))
LAYOUTS = ("contiguous", "channels_last")


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _calls(device: torch.device, shape: Shape) -> list[tuple[str, str, Arguments]]:
    return [
        (name, f"{what}, {shape}", arguments)
        for name in FALLBACK
        for what, arguments in samples(name, device, shape=shape, layouts=LAYOUTS)
    ]


def _results(calls: list[tuple[str, str, Arguments]]) -> dict[str, list[Tensor]]:
    return {what: [_bits(t) for t in tensors(operator(name)(*arguments))] for name, what, arguments in calls}


def _assert_same(got: dict[str, list[Tensor]], expected: dict[str, list[Tensor]], note: str) -> None:
    for what, values in expected.items():
        assert all(torch.equal(a, b) for a, b in zip(got[what], values, strict=True)), f"{what}, {note}"


def test_same_bits_on_every_run(device: torch.device) -> None:
    for shape in SHAPES:
        calls = _calls(device, shape)
        expected = _results(calls)
        for number in range(3):
            _assert_same(_results(calls), expected, f"run {number}")


def test_same_bits_with_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    try:
        for shape in SHAPES:
            calls = _calls(torch.device("cpu"), shape)
            torch.set_num_threads(1)
            expected = _results(calls)
            for threads in (2, 3, 8):
                torch.set_num_threads(threads)
                _assert_same(_results(calls), expected, f"{threads} threads")
    finally:
        torch.set_num_threads(before)


def test_pictures_of_a_batch_do_not_matter_to_each_other(device: torch.device) -> None:
    for name in ("masked_gram", "masked_gram_loss", "masked_gram_backward"):
        for what, (x, *rest) in samples(name, device, shape=(2, 70, 33, 37), layouts=LAYOUTS):
            together = tensors(operator(name)(x, *rest))
            for n in range(2):
                # Behind features and plan, the backward operator's arguments have a picture each.
                own = [
                    a[n : n + 1] if isinstance(a, Tensor) and name == "masked_gram_backward" and position >= 4 else a
                    for position, a in enumerate(rest)
                ]
                alone = tensors(operator(name)(x[n : n + 1], *own))
                for a, b in zip(alone, together, strict=True):
                    torch.testing.assert_close(a[0], b[n], rtol=1e-5, atol=1e-5, msg=what)
