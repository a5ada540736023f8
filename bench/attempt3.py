"""Attempt 3: time to the objective that the published procedure ends with after its 1500 steps.

Both sides have the paper's objective, on the same pictures and weights. The published side takes as long as its steps:
the median of some times their number, or with `--full`, at the smallest size, all of them. The engine starts from
encoded pictures, so that all of its set-up counts, and it has arrived when the published fp32 objective of its image
says so, not when its own bf16 one does. Judging is not on its clock.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict

from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.request import TransferRequest

from bench import engine
from bench.clock import Race, duration, race
from bench.example import MAX_PIXELS, example_request, example_weights, machine, new_encoder
from bench.options import Options
from bench.published import Published, Schedule
from bench.reference import Reference, attempt_3_judge, attempt_3_reference
from bench.report import Curve, Figure, Panel, Report

SIZES = (300, 600)
"""Longer sides: 200x300 and 400x600."""
GOAL = 200.0
PUBLISHED_STEPS = Schedule().single_shot
MOST_STEPS = 400
"""Of the engine; an objective that is not reached by then is missed."""
OURS = {"optimizer": "lbfgs", "start": "palette"}
WARM_UP = 2
ROUNDS = 20
REPEATS = 3
"""Runs of the engine, of which the median counts; the baseline's steps are timed in between."""


def run(options: Options) -> Iterator[Report]:
    """A report for each size."""
    for size in (options.size,) if options.size else SIZES:
        # Hours at any other size than the smallest: those run to the end only when they are asked for.
        yield compare(size, options, to_the_end=options.full and size == (options.size or min(SIZES)))


def compare(size: int, options: Options, *, to_the_end: bool) -> Report:
    """Both sides at one size, in turn."""
    steps = options.steps or PUBLISHED_STEPS
    request = our_request(size)
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    reference = attempt_3_reference(size, steps, by_published=to_the_end, out=options.out)
    first = race(engine.moves(request, new_encoder(request)), attempt_3_judge(inputs), reference.objective)
    times = [first.seconds]
    samples = list(reference.seconds) if to_the_end else []
    rounds = 0 if to_the_end else options.rounds or ROUNDS
    published = Published(example_weights(), inputs, schedule=Schedule(single_shot=WARM_UP + rounds)).attempt_3()
    if rounds:
        duration(published, WARM_UP)
    for repeat in range(1, REPEATS):
        share = rounds * repeat // (REPEATS - 1) - len(samples)
        samples += [duration(published, 1) for _ in range(share)]
        if first.steps is not None:
            times.append(duration(engine.moves(request, new_encoder(request)), first.steps))
    step = statistics.median(samples)
    baseline = sum(samples) if to_the_end else step * steps
    height, width = inputs.labels.shape
    return report((height, width), (baseline, step), reference, first, (samples, times))


def our_request(size: int) -> TransferRequest:
    """The paper's objective, optimised as the product does."""
    return example_request(size, method="single-shot", paper=True, steps=MOST_STEPS, parameters=OURS)


def report(
    shape: tuple[int, int],
    baseline: tuple[float, float],
    reference: Reference,
    first: Race,
    samples: tuple[list[float], list[float]],
) -> Report:
    """The figure, its samples and both curves.

    Args:
        shape: (height, width).
        baseline: seconds of all published steps, and of one.
        reference: what they end with.
        first: the engine's way there.
        samples: seconds of the published steps that were timed, and of the engine's runs.
    """
    size = f"{shape[0]}x{shape[1]}"
    whole, step = baseline
    ours = statistics.median(samples[1])
    figure = Figure(
        name=f"Attempt 3, time to the published objective, {size}",
        goal=GOAL,
        measured=None if first.steps is None else whole / ours,
        unit="x",
        at_least=True,
    )
    published = Curve(
        name="published procedure",
        seconds=[step * number for number in range(1, reference.steps + 1)],
        objectives=reference.totals,
    )
    intarsia = Curve(
        name="Intarsia",
        seconds=[seconds for seconds, _ in first.curve],
        objectives=[objective for _, objective in first.curve],
    )
    facts = {
        "size": size,
        "published": {"seconds": whole, "steps": reference.steps, "step_samples": samples[0]},
        "intarsia": {"seconds": ours, "samples": samples[1], **OURS, "race": asdict(first)},
        "reference": {"objective": reference.objective, "made_by": reference.made_by},
        "machine": machine(),
    }
    panel = Panel(
        title=f"Attempt 3, {size}: the paper's objective", target=reference.objective, curves=(published, intarsia)
    )
    return Report(name=f"attempt3-{size}", figures=(figure,), facts=facts, panel=panel)
