"""Seconds per step of the published procedure and of Intarsia, on the shipped example.

`python -m bench.step` from the repository's root. Both sides run in this one process, on the same pictures and encoder
weights, a step of each in turn, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from intarsia.request import build_request
from intarsia_server.engine.capabilities import describe_device, resolve_precision, torch_dtype
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.inputs import DEFAULT_SIZE, Inputs, decode_inputs
from intarsia_server.engine.parameters import BlendedParameters, MaskedGramParameters, SingleShotParameters
from intarsia_server.engine.request import Precision, TransferRequest
from intarsia_server.engine.transfer import transfer
from intarsia_server.engine.weights import EMBEDDED, ConvolutionWeights, load_weights
from intarsia_server.executors.worker import keep_memory
from intarsia_server.rpc.requests import to_transfer_request

from bench.published import Published, Schedule

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "bench" / "out" / "step.json"
STYLES = ("brush", "glass", "ink")
CPU = torch.device("cpu")
MAX_PIXELS = 2**26

BASELINE = "published, Attempt 3"
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


def example_request(size: int) -> TransferRequest:
    """The example as a job with the product's defaults, its longer side `size` pixels."""
    folder = ROOT / "examples"
    request = build_request(
        folder / "content.png",
        labels=folder / "labels.png",
        styles={label: folder / "styles" / f"{name}.png" for label, name in enumerate(STYLES)},
        size=size,
    )
    return to_transfer_request(request, default_encoder=EMBEDDED, encoders=(EMBEDDED,))


def contenders(
    request: TransferRequest, inputs: Inputs, weights: ConvolutionWeights, *, rounds: int
) -> dict[str, Iterator[object]]:
    """Both sides on a request's pictures, by name; each is an iterator whose `next` returns when a step is done."""
    steps = WARM_UP + rounds
    # One vanilla step is enough to come to Attempt 1's stages per segment.
    published = Published(weights, inputs, schedule=Schedule(vanilla=1, segment=steps, single_shot=steps))
    found: dict[str, Iterator[object]] = {
        BASELINE: published.attempt_3(),
        "published, Attempt 1, per segment": (step for step in published.attempt_1() if step.stage != "vanilla"),
    }
    default = resolve_precision(Precision.AUTO, CPU)
    for precision in dict.fromkeys((default, Precision.FP32)):
        encoder = Encoder(weights, device=CPU, precision=torch_dtype(precision))
        # Steps at full size alone: those of the coarse stage cost a quarter.
        for parameters in (
            SingleShotParameters(steps=steps),
            MaskedGramParameters(steps=steps, coarse_steps=0),
            BlendedParameters(steps=steps, coarse_steps=0),
        ):
            job = replace(request, parameters=parameters, precision=precision)
            note = " (default)" if precision is default else ""
            found[f"Intarsia, {parameters.method}, {precision}{note}"] = _steps(job, inputs, encoder)
    return found


def _steps(request: TransferRequest, inputs: Inputs, encoder: Encoder) -> Iterator[object]:
    """A job's steps as the worker process runs them, optimiser included."""
    events = transfer(request, inputs, encoder, cancelled=lambda: False)
    return (event for event in events if isinstance(event, StepDone))


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


def machine() -> dict[str, object]:
    """What the timings depend on; the load before the run tells how far to trust them."""
    return {
        "cpu": describe_device(CPU).description,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
    }


def table(rows: Sequence[Row]) -> str:
    """The rows for people; the last column says how many times faster than the baseline."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'seconds per step':{width}}  {'median':>8}  {'min':>8}  {'max':>8}  {'faster':>8}"]
    lines += [
        f"{row.name:{width}}  {row.median:8.3f}  {min(row.samples):8.3f}  {max(row.samples):8.3f}  {row.ratio:7.2f}x"
        for row in rows
    ]
    return "\n".join(lines)


def report(rows: Sequence[Row], facts: Mapping[str, object]) -> str:
    """The same as JSON, with every sample."""
    entries = [
        {"name": row.name, "median": row.median, "ratio": row.ratio, "samples": list(row.samples)} for row in rows
    ]
    return json.dumps({**facts, "unit": "seconds per step", "baseline": BASELINE, "rows": entries}, indent=2) + "\n"


def main() -> None:
    """Measures, prints the table and writes `bench/out/step.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (default 5)")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE, help="longer side in pixels (default 600: 400x600)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        request = example_request(options.size)
        inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    except InvalidInputError as error:
        parser.error(f"--size: {error.reason}")
    # The product's worker process keeps freed memory; the published side shares this process and gains from it too.
    keep_memory()
    height, width = inputs.labels.shape
    run: dict[str, object] = {"height": height, "width": width, "segments": len(STYLES), "rounds": options.rounds}
    facts = {**run, "warm_up": WARM_UP, "machine": machine()}
    field = contenders(request, inputs, load_weights(EMBEDDED), rounds=options.rounds)
    print(f"{height}x{width}, {len(STYLES)} segments, {options.rounds} rounds; {describe_device(CPU).description},")
    print(f"threads: {torch.get_num_threads()}, torch {torch.__version__}\n", flush=True)
    rows = measure(field, rounds=options.rounds)
    print(table(rows))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(report(rows, facts))


if __name__ == "__main__":
    main()
