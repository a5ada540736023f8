"""The benchmark of steps: both sides and their convolutions, in turn, on what they are said to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.request import Precision
from torch.nn import functional

from bench import step
from bench.convolutions import convolutions
from bench.example import MAX_PIXELS, default_precision, example_request, example_weights
from bench.options import Options


def test_both_sides_and_their_convolutions_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    (report,) = step.run(Options(size=64, rounds=2))

    rows = {row["name"]: row for row in report.facts["rows"]}
    default = default_precision()
    assert next(iter(rows)) == step.BASELINE
    for precision in (default, Precision.FP32):
        assert step.convolutions_alone(precision) in rows
        for method in ("single-shot", "masked-gram", "blended"):
            assert step.contender(method, precision, 3) in rows
    assert all(len(row["samples"]) == 2 and min(row["samples"]) > 0 for row in rows.values())
    medians = {name: row["median"] for name, row in rows.items()}
    assert all(row["ratio"] == pytest.approx(medians[step.BASELINE] / row["median"]) for row in rows.values())
    several, one, many = (medians[step.contender("blended", default, count)] for count in (3, 1, 16))
    figures = {figure.name: figure for figure in report.figures}
    over = figures["blended, step over its convolutions alone, 43x64, 3 segments"]
    assert (over.goal, over.measured) == (1.10, pytest.approx(several / medians[step.convolutions_alone(default)]))
    spread = figures["blended, step with 16 segments over one segment's, 43x64"]
    assert (spread.goal, spread.measured) == (1.05, pytest.approx(many / one))
    assert "Intarsia, blended" in capsys.readouterr().out


def test_rounds_are_interleaved_and_the_warm_up_does_not_count() -> None:
    taken: list[str] = []

    def steps(name: str) -> Iterator[None]:
        while True:
            taken.append(name)
            yield

    rows = step.measure({step.BASELINE: steps("a"), "other": steps("b")}, rounds=2)

    assert taken == ["a", "a", "b", "b", "a", "b", "a", "b"]
    assert [len(row.samples) for row in rows] == [2, 2]


@pytest.mark.parametrize("segments", [1, 3, 16])
def test_the_example_has_as_many_segments_as_asked(segments: int) -> None:
    inputs = decode_inputs(example_request(64, segments=segments), max_pixels=MAX_PIXELS)
    assert sorted(set(inputs.labels.flatten().tolist())) == list(range(segments))
    assert inputs.styled == tuple(range(segments))


@pytest.mark.parametrize(("precision", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_convolutions_are_the_encoders_forward_and_backward(precision: torch.dtype, bound: float) -> None:
    weights = example_weights()
    calls = list(convolutions(weights, 48, 64, precision))
    assert len(calls) == 2 * 13
    for number in (0, 5, 12):
        weight = weights[number][0].to(precision).double()
        forward, backward = calls[2 * number : 2 * number + 2]
        image, gradient = (call.args[0].double() for call in (forward, backward))
        bias = weights[number][1].to(precision).double()
        out = functional.conv2d(image, weight, bias)
        assert out.shape == gradient.shape
        found = forward().double().clamp_min(0)
        assert float((found - out.clamp_min(0)).norm() / out.norm()) < bound
        expected = torch.nn.grad.conv2d_input(image.shape, weight, gradient)
        assert float((backward().double() - expected).norm() / expected.norm()) < bound
