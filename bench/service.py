"""What the service costs: a job through gRPC beside the engine alone, and a second job's way to its first progress.

One private server on a Unix socket, started as the embedded client starts it. For the first figure every job brings
style images that nobody has seen, so that both sides compute all of their targets; for the second they are the same.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from intarsia import Client
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia_server.engine.inputs import DEFAULT_SIZE
from PIL import Image

from bench import engine
from bench.clock import timed
from bench.example import engine_request, example_message, machine, new_encoder
from bench.options import Options
from bench.report import Figure, Report

SIZE = 300
"""Longer side for the overhead: what a job costs beside its steps does not shrink with them, so small jobs show it."""
OVERHEAD = 0.02
FIRST_PROGRESS = 2.0
ROUNDS = 3
STEPS = 4
"""Of the jobs that are timed to their first progress event; the ones after it give the median step."""


def run(options: Options) -> Iterator[Report]:
    """One report."""
    rounds = options.rounds or ROUNDS
    size = options.size or SIZE
    with Client.embedded() as client:
        alone, through = overhead(client, size, options.steps, rounds)
        larger = options.size or DEFAULT_SIZE
        arrivals = [first_progress(client, larger, options.steps or STEPS) for _ in range(rounds + 1)][1:]
    cost = statistics.median(through) / statistics.median(alone) - 1
    waits = [first / step for first, step in arrivals]
    figures = (
        Figure(name=f"job through gRPC over the engine alone, size {size}, in addition", goal=OVERHEAD, measured=cost),
        Figure(
            name=f"second job's first progress event over a step, size {larger}",
            goal=FIRST_PROGRESS,
            measured=statistics.median(waits),
        ),
    )
    facts = {
        "engine": alone,
        "service": through,
        "first_progress": [{"seconds": first, "step": step} for first, step in arrivals],
        "machine": machine(),
    }
    yield Report(name="service", figures=figures, facts=facts)


def overhead(client: Client, size: int, steps: int | None, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the same jobs by the engine alone and through the service, in turn, after one of each to warm up."""
    alone, through = [], []
    request = engine_request(example_message(size, steps=steps))
    encoder = new_encoder(request)
    for number in range(rounds + 1):
        message = with_new_styles(example_message(size, steps=steps), number)
        alone.append(timed(partial(engine.run, engine_request(message), encoder))[0])
        through.append(timed(client.start(message).result)[0])
    return alone[1:], through[1:]


def with_new_styles(message: pb.StylizeRequest, number: int) -> pb.StylizeRequest:
    """The same request with one pixel of every style changed, in another way for each number."""
    for segment in message.segments:
        with Image.open(io.BytesIO(segment.style.data)) as image:
            style = image.convert("RGB")
        style.putpixel((0, 0), (number % 256, number // 256, 0))
        buffer = io.BytesIO()
        style.save(buffer, "PNG")
        segment.style.data = buffer.getvalue()
    return message


def first_progress(client: Client, size: int, steps: int) -> tuple[float, float]:
    """Seconds from a request to its first progress event, and between two of its last stage (the median)."""
    message = example_message(size, steps=steps)
    began = time.perf_counter()
    arrivals = [
        (event.progress.stage, time.perf_counter()) for event in client.start(message) if event.HasField("progress")
    ]
    last = [moment for stage, moment in arrivals if stage == arrivals[-1][0]]
    between = [after - before for before, after in pairwise(last)]
    return arrivals[0][1] - began, statistics.median(between)
