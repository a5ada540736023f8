"""Attempt 2 in full: the product's `sequential-smooth` at its defaults beside all of the published stages.

The published side takes the median of some steps of each stage times the stage's steps. The quality figures of both
pictures are those of `intarsia evaluate`, at a smaller size, where the published procedure is run to its end, through
the engine.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from intarsia.files import write_atomically
from intarsia_server.engine.cancel import never
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.evaluation.evaluate import evaluate
from intarsia_server.engine.evaluation.inputs import decode_evaluation_inputs
from intarsia_server.engine.inputs import DEFAULT_SIZE, decode_inputs
from intarsia_server.engine.request import EvaluationRequest, LabelMapSource, TransferRequest
from intarsia_server.engine.weights import EMBEDDED
from intarsia_server.rpc.evaluations import to_evaluate_response

from bench import engine, reference
from bench.clock import clocked, timed
from bench.example import CPU, MAX_PIXELS, example_request, example_weights, machine, new_encoder
from bench.options import Options
from bench.published import Published, Schedule
from bench.quality.figures import Figures
from bench.report import Figure, Report

METHOD = "sequential-smooth"
GOAL = 150.0
QUALITY_SIZE = 300
"""Longer side at which quality is compared."""
ROUNDS = 3
LARGE_IS_GOOD = {"structure"}


def run(options: Options) -> Iterator[Report]:
    """One report: the times, and the quality where the published picture is at hand or `--full` makes it."""
    size = options.size or DEFAULT_SIZE
    request = example_request(size, method=METHOD, steps=options.steps)
    height, width = decode_inputs(request, max_pixels=MAX_PIXELS).labels.shape
    stages = published_stages(request, options.rounds or ROUNDS)
    whole = published_seconds(stages)
    ours = [timed(partial(engine.run, request, new_encoder(request)))[0] for _ in range(3 if options.full else 1)]
    figures = [
        Figure(
            name=f"Attempt 2 in full, {height}x{width}",
            goal=GOAL,
            measured=whole / statistics.median(ours),
            unit="x",
            at_least=True,
        )
    ]
    facts: dict[str, Any] = {
        "size": f"{height}x{width}",
        "published": {"seconds": whole, "step_samples": stages},
        "intarsia": {"samples": ours},
        "machine": machine(),
    }
    theirs = published_quality(min(size, QUALITY_SIZE), options)
    if theirs is None:
        sys.stderr.write("no published picture is kept, so there are no quality figures; --full makes it\n")
    else:
        own = example_request(min(size, QUALITY_SIZE), method=METHOD, steps=options.steps)
        mine = quality(own, engine.run(own, new_encoder(own)))
        figures += quality_figures(mine, theirs)
        facts["quality"] = {"published": theirs.as_dict(), "intarsia": mine.as_dict()}
    yield Report(name=f"attempt2-{height}x{width}", figures=figures, facts=facts)


def published_stages(request: TransferRequest, rounds: int) -> dict[str, list[float]]:
    """Seconds of some steps of each published stage; a stage's first, which computes its targets, is left out."""
    steps = rounds + 1
    schedule = Schedule(vanilla=steps, segment=steps, smoothing=steps, border=steps)
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    samples: dict[str, list[float]] = {}
    before = 0.0
    for seconds, step in clocked(Published(example_weights(), inputs, schedule=schedule).attempt_2()):
        if step.number > 1:
            samples.setdefault(step.stage, []).append(seconds - before)
        before = seconds
    return samples


def published_seconds(stages: Mapping[str, Sequence[float]]) -> float:
    """Of all published steps: each stage's median times its steps."""
    schedule = Schedule()
    steps = {"vanilla": schedule.vanilla, "smoothing": schedule.smoothing, "border smoothing": schedule.border}
    return sum(statistics.median(samples) * steps.get(name, schedule.segment) for name, samples in stages.items())


def published_quality(size: int, options: Options) -> Figures | None:
    """The published picture's figures: kept, or with `--full` made now; None where they are neither."""
    request = example_request(size, method=METHOD, paper=True, steps=options.steps)
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    height, width = inputs.labels.shape
    name = f"attempt2-published-{height}x{width}"
    key = {"pictures": reference.fingerprint(inputs), "parameters": asdict(request.parameters)}
    kept = reference.load(options.out, name, key)
    if kept is None and options.full:
        sys.stderr.write(f"{name}: every published step, through the engine\n")
        picture = engine.run(request, new_encoder(request))
        kept = quality(request, picture).as_dict()
        reference.save(options.out, name, key, kept)
        write_atomically(options.out / f"{name}.png", picture)
    return None if kept is None else Figures(**kept)


def quality(request: TransferRequest, picture: bytes) -> Figures:
    """A picture's figures, as `intarsia evaluate` has them."""
    assert isinstance(request.segmentation, LabelMapSource)
    evaluation = EvaluationRequest(
        content=request.content,
        label_map=request.segmentation.data,
        segments=request.segments,
        result=picture,
        encoder=EMBEDDED,
    )
    inputs = decode_evaluation_inputs(evaluation, max_pixels=MAX_PIXELS)
    encoder = Encoder(example_weights(), device=CPU, precision=torch.float32)
    return Figures.of(to_evaluate_response(evaluate(inputs, encoder, cancelled=never)))


def quality_figures(ours: Figures, theirs: Figures) -> list[Figure]:
    """Each of ours over theirs, which is to be no worse."""
    published = theirs.as_dict()
    return [
        Figure(
            name=f"Attempt 2, {name} over the published picture's",
            goal=1.0,
            measured=value / published[name],
            at_least=name in LARGE_IS_GOOD,
        )
        for name, value in ours.as_dict().items()
    ]
