"""Seconds per step: the published procedure, Intarsia's methods, and a step's convolutions by themselves.

All run in this one process, on the same pictures and encoder weights, a step of each in turn, so that whatever else the
machine does meets all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from intarsia_server.engine.capabilities import torch_dtype
from intarsia_server.engine.inputs import DEFAULT_SIZE, decode_inputs
from intarsia_server.engine.parameters import (
    BlendedParameters,
    MaskedGramParameters,
    MethodParameters,
    SingleShotParameters,
)
from intarsia_server.engine.request import Precision

from bench import engine
from bench.convolutions import passes
from bench.example import (
    MAX_PIXELS,
    STYLES,
    default_precision,
    example_request,
    example_weights,
    machine,
    new_encoder,
)
from bench.options import Options
from bench.published import Published, Schedule
from bench.report import Figure, Report

BASELINE = "published, Attempt 3"
HELD = ("masked-gram", "blended")
"""Methods whose step is held to the goals."""
MANY = 16
"""Segments of the synthetic label map."""
OVER_CONVOLUTIONS = 1.10
MANY_OVER_ONE = 1.05
ROUNDS = 5
WARM_UP = 2
"""Steps of each that do not count: the first computes targets and fills caches and memory pools.

With every step L-BFGS works longer until its history is full, but by less than a hundredth of a step in all: waiting
for that would take more time than it is worth.
"""


@dataclass(frozen=True)
class Row:
    """Timed steps of one contender, in seconds, and the baseline's median over this one's."""

    name: str
    samples: tuple[float, ...]
    ratio: float

    @property
    def median(self) -> float:
        """Seconds per step."""
        return statistics.median(self.samples)


def contender(method: str, precision: Precision, segments: int) -> str:
    """The name of one of Intarsia's."""
    return f"Intarsia, {method}, {precision}, {segments} segment{'s' if segments > 1 else ''}"


def convolutions_alone(precision: Precision) -> str:
    """The name of a step's convolutions by themselves."""
    return f"convolutions alone, {precision}"


def contenders(size: int, *, rounds: int) -> dict[str, Iterator[object]]:
    """All sides at a longer side in pixels, by name; each is an iterator whose `next` returns when a step is done."""
    steps = WARM_UP + rounds
    weights = example_weights()
    inputs = decode_inputs(example_request(size), max_pixels=MAX_PIXELS)
    height, width = inputs.labels.shape
    published = Published(weights, inputs, schedule=Schedule(single_shot=steps))
    found: dict[str, Iterator[object]] = {BASELINE: published.attempt_3()}
    default = default_precision()
    # Steps at full size alone: those of the coarse stage cost a quarter.
    methods: tuple[MethodParameters, ...] = (
        SingleShotParameters(steps=steps, coarse_steps=0),
        MaskedGramParameters(steps=steps, coarse_steps=0),
        BlendedParameters(steps=steps, coarse_steps=0),
    )
    for precision in dict.fromkeys((default, Precision.FP32)):
        found[convolutions_alone(precision)] = passes(weights, height, width, torch_dtype(precision))
        for parameters in methods:
            found[contender(parameters.method, precision, len(STYLES))] = _steps(
                size, parameters, precision, len(STYLES)
            )
    for parameters in methods:
        if parameters.method in HELD:
            for segments in (1, MANY):
                found[contender(parameters.method, default, segments)] = _steps(size, parameters, default, segments)
    return found


def _steps(size: int, parameters: MethodParameters, precision: Precision, segments: int) -> Iterator[object]:
    request = replace(example_request(size, segments=segments), parameters=parameters, precision=precision)
    return engine.steps(request, decode_inputs(request, max_pixels=MAX_PIXELS), new_encoder(request))


def measure(field: Mapping[str, Iterator[object]], *, rounds: int) -> list[Row]:
    """Times `rounds` steps of each, one of each in turn, after the warm-up."""
    for steps in field.values():
        for _ in range(WARM_UP):
            next(steps)
    samples: dict[str, list[float]] = {name: [] for name in field}
    for _ in range(rounds):
        for name, steps in field.items():
            began = time.perf_counter()
            next(steps)
            samples[name].append(time.perf_counter() - began)
    baseline = statistics.median(samples[BASELINE])
    return [Row(name, tuple(times), baseline / statistics.median(times)) for name, times in samples.items()]


def figures(rows: Sequence[Row], size: str) -> list[Figure]:
    """What the goals are for, from the default precision's rows; `size` is for their names."""
    medians = {row.name: row.median for row in rows}
    precision = default_precision()
    alone = medians[convolutions_alone(precision)]
    found = []
    for method in HELD:
        one, several, many = (medians[contender(method, precision, count)] for count in (1, len(STYLES), MANY))
        over = f"{method}, step over its convolutions alone, {size}, {len(STYLES)} segments"
        found.append(Figure(name=over, goal=OVER_CONVOLUTIONS, measured=several / alone))
        spread = f"{method}, step with {MANY} segments over one segment's, {size}"
        found.append(Figure(name=spread, goal=MANY_OVER_ONE, measured=many / one))
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows for people; the last column says how many times faster than the baseline."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'seconds per step':{width}}  {'median':>8}  {'min':>8}  {'max':>8}  {'faster':>8}"]
    lines += [
        f"{row.name:{width}}  {row.median:8.3f}  {min(row.samples):8.3f}  {max(row.samples):8.3f}  {row.ratio:7.2f}x"
        for row in rows
    ]
    return "\n".join(lines)


def run(options: Options) -> Iterator[Report]:
    """One report; the seconds per step are printed."""
    rounds = options.rounds or ROUNDS
    request = example_request(options.size or DEFAULT_SIZE)
    height, width = decode_inputs(request, max_pixels=MAX_PIXELS).labels.shape
    rows = measure(contenders(options.size or DEFAULT_SIZE, rounds=rounds), rounds=rounds)
    print(f"\n{height}x{width}\n{table(rows)}\n", flush=True)
    facts = {
        "size": f"{height}x{width}",
        "warm_up": WARM_UP,
        "rows": [{"name": row.name, "median": row.median, "ratio": row.ratio, "samples": row.samples} for row in rows],
        "machine": machine(),
    }
    yield Report(name=f"step-{height}x{width}", figures=figures(rows, f"{height}x{width}"), facts=facts)
