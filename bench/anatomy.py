"""Where a step's time goes, operator by operator, as torch's profiler sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from intarsia_server.engine.inputs import DEFAULT_SIZE, decode_inputs
from intarsia_server.engine.parameters import (
    BlendedParameters,
    MaskedGramParameters,
    MethodParameters,
    SingleShotParameters,
)
from torch.profiler import ProfilerActivity, profile

from bench import engine
from bench.example import MAX_PIXELS, example_request, machine, new_encoder
from bench.options import Options
from bench.report import Report

WARM_UP = 12
"""Steps before the profiled ones: by then the optimizer's history is full."""
ROUNDS = 5
PARTS: Mapping[str, str] = {
    "mkldnn::_convolution_pointwise": "convolutions",
    "aten::mkldnn_convolution": "convolutions",
    "intarsia::masked_gram_loss": "Gram matrices, forward",
    "intarsia::masked_gram_backward": "Gram matrices, backward",
    "intarsia::relu_backward": "ReLU and pooling, backward",
    "intarsia::convolution_input": "pooling and padding, forward",
    "intarsia::feature_loss": "content and surrogate",
    "intarsia::masked_tv": "total variation",
}
"""Operators by what they are for; all others are the optimizer's and small change."""
REST = "optimizer and all else"


def run(options: Options) -> Iterator[Report]:
    """One report without goals; the table is printed."""
    size, rounds = options.size or DEFAULT_SIZE, options.rounds or ROUNDS
    methods: tuple[MethodParameters, ...] = (
        SingleShotParameters(steps=WARM_UP + rounds, coarse_steps=0),
        MaskedGramParameters(steps=WARM_UP + rounds, coarse_steps=0),
        BlendedParameters(steps=WARM_UP + rounds, coarse_steps=0),
    )
    found = {parameters.method: anatomy(size, parameters, rounds) for parameters in methods}
    print(f"\n{table(found)}\n", flush=True)
    yield Report(name="anatomy", figures=[], facts={"milliseconds": found, "machine": machine()})


def anatomy(size: int, parameters: MethodParameters, rounds: int) -> dict[str, float]:
    """Milliseconds per step of each part, the mean of some steps."""
    request = replace(example_request(size), parameters=parameters)
    steps = engine.steps(request, decode_inputs(request, max_pixels=MAX_PIXELS), new_encoder(request))
    for _ in range(WARM_UP):
        next(steps)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(rounds):
            next(steps)
    spent: Counter[str] = Counter(dict.fromkeys([*PARTS.values(), REST], 0.0))
    for row in profiled.key_averages():
        spent[PARTS.get(row.key, REST)] += row.self_cpu_time_total / 1000 / rounds
    return dict(spent)


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each part and a column for each method, in Markdown."""
    lines = [f"| ms per step | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    lines += [
        f"| {part} | {' | '.join(f'{spent[part]:.1f}' for spent in found.values())} |"
        for part in next(iter(found.values()))
    ]
    lines.append(f"| **in all** | {' | '.join(f'**{sum(spent.values()):.0f}**' for spent in found.values())} |")
    return "\n".join(lines)
