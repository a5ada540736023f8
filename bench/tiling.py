"""Pictures larger than memory: the tiled gradient against the untiled one, memory, and time by size of the picture.

`python -m bench tiling` measures what a machine does in some minutes; with `--full` also what takes hours: the largest
pictures. Each job has a process of its own, so that its largest resident set is its alone.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from intarsia_server.engine.cancel import never
from intarsia_server.engine.capabilities import memory_allowed, memory_held
from intarsia_server.engine.cost.memory import job_budget, largest_buffer, peak_memory, tile_pixels_for
from intarsia_server.engine.cost.work import plan_of
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.objective import ObjectiveBuilder
from intarsia_server.engine.request import Optimizer, Precision, TransferRequest
from intarsia_server.engine.tiles import tiles_of
from intarsia_server.engine.transfer import transfer
from intarsia_server.executors.worker import keep_memory
from PIL import Image

from bench.example import (
    CPU,
    MAX_PIXELS,
    default_precision,
    example_message,
    example_request,
    example_weights,
    machine,
    new_encoder,
)
from bench.options import Options
from bench.report import Figure, Report

EXACT = 1e-5
BUDGET = 4 * 2**30
LARGE, WIDE = 3840, (592, 333)
"""Longer side of the picture that the budget is for, and what is cut of the example for its proportions."""

CUTS = {3: (280, 26_000), 8: (331, 40_000), 12: (421, 45_000)}
"""Longer side of the example in pixels and pixels of a tile, by the least number of tiles that they make."""

METHODS: Mapping[str, Mapping[str, object]] = {
    "gatys": {},
    "masked-gram": {},
    "masked-gram, capped": {"capped_gradients": True},
    "sequential": {},
    "sequential-smooth": {},
    "single-shot": {},
    "blended": {},
}

SIZES = {False: (300, 600, 1200), True: (300, 600, 1200, 1800, 2400, 3500, 5100, 7200)}
"""Longer sides; the largest is of 35 megapixels."""

TILE = 300_000
"""Pixels of a tile where sizes are compared in tiles."""

FLAT, FLAT_PIXELS = 1.2, 8.5e6
"""How much more a pixel of one picture may cost than one of another, and pixels of the largest of these."""


@dataclass(frozen=True)
class Job:
    """What a process of its own measures.

    Attributes:
        size: longer side.
        steps: of the only stage.
        precision: resolved.
        cut: (width, height) of what is cut of the example; None: all of it.
        memory: bytes that a worker may hold in all.
        tile_pixels: of a tile; None: as that asks.
    """

    size: int
    steps: int
    precision: str
    cut: tuple[int, int] | None = None
    memory: int = BUDGET
    tile_pixels: int | None = None


@dataclass(frozen=True)
class Measured:
    """What it has measured: bytes at its peak and before the job, the estimates with and without tiles, and seconds."""

    height: int
    width: int
    tiles: int
    peak: int
    idle: int
    estimated: int
    untiled: int
    state: int
    step_seconds: float
    cpu_seconds: float

    @property
    def pixels(self) -> int:
        """Of the picture."""
        return self.height * self.width


def gradient_errors() -> Iterator[dict[str, object]]:
    """By method, stage and number of tiles, how far the tiled gradient and losses are from the untiled ones."""
    for method, knobs in METHODS.items():
        for count, (size, tile_pixels) in CUTS.items():
            request = example_request(
                size,
                method=method.partition(",")[0],
                precision="fp32",
                parameters={"coarse_steps": 0, **knobs},
            )
            yield from _stage_errors(request, tile_pixels, {"method": method, "least": count})


def _stage_errors(
    request: TransferRequest, tile_pixels: int, facts: Mapping[str, object]
) -> Iterator[dict[str, object]]:
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    height, width = inputs.labels.shape
    encoder = Encoder(example_weights(), device=CPU, precision=torch.float32)
    whole, tiled = (
        ObjectiveBuilder(encoder, inputs, request.segments, paper=False, cancelled=never, tile_pixels=pixels)
        for pixels in (None, tile_pixels)
    )
    noise = torch.randn(whole.content.shape, generator=torch.Generator().manual_seed(0))
    for stage in plan_of(request, (width, height)):
        expected, found = (
            builder.build(stage.losses, capped=stage.capped)(whole.content + 0.3 * noise) for builder in (whole, tiled)
        )
        yield {
            **facts,
            "stage": stage.name,
            "size": f"{height}x{width}",
            "tiles": len(tiles_of(height, width, tile_pixels)),
            "gradient": float((found.gradient - expected.gradient).norm() / expected.gradient.norm()),
            "losses": float(((found.values - expected.values) / expected.values).abs().max()),
        }


def measure(job: Job) -> Measured:
    """Runs a job in a process of its own."""
    command = [sys.executable, "-m", "bench.tiling", json.dumps(asdict(job))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return Measured(**json.loads(done.stdout))


def run_job(job: Job) -> Measured:
    """Runs it in this one, as a worker would."""
    keep_memory()
    options: dict[str, Any] = {"method": "blended", "steps": job.steps, "parameters": {"coarse_steps": 0}}
    if job.cut is not None:
        example = example_message(job.size)
        options["labels"] = _cut(example.label_map.data, job.cut)
        request = example_request(job.size, content=_cut(example.content.data, job.cut), **options)
    else:
        request = example_request(job.size, **options)
    request = replace(request, precision=Precision(job.precision))
    encoder = new_encoder(request)
    idle = memory_held(CPU)
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    height, width = inputs.labels.shape
    needed = partial(peak_memory, request, (width, height), precision=request.precision, loaded=True)
    tile_pixels = job.tile_pixels or tile_pixels_for(needed, (width, height), job_budget(job.memory))
    if tile_pixels is not None:
        keep_memory(largest_buffer(request.precision, tile_pixels))
    events = transfer(request, inputs, encoder, cancelled=never, tile_pixels=tile_pixels)
    moments = [(time.perf_counter(), time.process_time()) for event in events if isinstance(event, StepDone)]
    # The first step, with which the targets are made, is not among them.
    taken = [(end[0] - start[0], end[1] - start[1]) for start, end in itertools.pairwise(moments)]
    pairs = min(request.optimization.history, job.steps) if request.optimization.optimizer is Optimizer.LBFGS else 0
    return Measured(
        height=height,
        width=width,
        tiles=len(tiles_of(height, width, tile_pixels)),
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        idle=idle,
        estimated=needed(tile_pixels=tile_pixels),
        untiled=needed(tile_pixels=None),
        state=12 * height * width * (2 * (pairs + 1) + 1),
        step_seconds=min(wall for wall, _ in taken),
        cpu_seconds=min(cpu for _, cpu in taken),
    )


def _cut(data: bytes, size: tuple[int, int]) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.crop((0, 0, *size))


def run(options: Options) -> Iterator[Report]:
    """Reports of exactness, of memory within a budget, and of what grows with the picture."""
    errors = list(gradient_errors())
    worst = max(errors, key=lambda row: float(str(row["gradient"])))
    yield Report(
        name="tiling-gradient",
        figures=[
            Figure(name="tiled gradient, relative error, worst", goal=EXACT, measured=float(str(worst["gradient"])))
        ],
        facts={"rows": errors, "machine": machine()},
    )
    job = Job(LARGE, max(2, options.steps or 2), default_precision())
    sizes = (options.size,) if options.size else SIZES[options.full]
    yield _by_size("in tiles", [replace(job, size=size, tile_pixels=TILE) for size in sizes])
    memory = memory_allowed(CPU) or BUDGET
    yield _by_size("as memory allows", [replace(job, size=size, memory=memory) for size in sizes if size < LARGE])
    if options.full:
        row = _measured(replace(job, cut=WIDE))
        yield Report(
            name="tiling-budget",
            figures=[Figure(name="peak over 4 GiB, 2160x3840", goal=1.0, measured=row.peak / BUDGET)],
            facts={"row": asdict(row), "machine": machine()},
        )


def _by_size(how: str, jobs: Sequence[Job]) -> Report:
    rows = [_measured(job) for job in jobs]
    per_pixel = [row.cpu_seconds / row.pixels for row in rows if row.pixels <= FLAT_PIXELS]
    figures = []
    if per_pixel:
        name = f"dearest pixel over the cheapest, by size, {how}"
        figures.append(Figure(name=name, goal=FLAT, measured=max(per_pixel) / min(per_pixel)))
    facts = {"rows": [asdict(row) for row in rows], "machine": machine()}
    return Report(name=f"tiling-size {how}".replace(" ", "-"), figures=figures, facts=facts)


def _measured(job: Job) -> Measured:
    row = measure(job)
    print(_line(row), flush=True)
    return row


def _line(row: Measured) -> str:
    mebibytes = {name: value / 2**20 for name, value in asdict(row).items() if name in _BYTES}
    amounts = ", ".join(f"{name} {value:.0f} MiB" for name, value in mebibytes.items())
    each = 1e6 * row.cpu_seconds / row.pixels
    return f"{row.height}x{row.width} in {row.tiles} tiles: {amounts}; {each:.2f} us of CPU a pixel and step"


_BYTES = ("peak", "idle", "estimated", "untiled", "state")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiling", description="One job, as JSON; for the part itself."
    )
    parser.add_argument("job", type=lambda text: Job(**json.loads(text)))
    print(json.dumps(asdict(run_job(parser.parse_args().job))))
