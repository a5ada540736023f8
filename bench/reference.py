"""What the published procedure ends with, made once and kept: hours of steps that need not run again.

A reference is taken only for the pictures, weights and steps that it was made of. It is looked for in the output folder
and then among those that come with the project.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from intarsia.files import write_atomically
from intarsia_server.engine.inputs import Inputs, decode_inputs
from torch import Tensor

from bench import engine
from bench.clock import Judge, clocked
from bench.example import MAX_PIXELS, example_request, example_weights, new_encoder
from bench.options import ROOT
from bench.published import SINGLE_SHOT, Objective, Published, Schedule, Step, prefixes, to_image

SHIPPED = ROOT / "bench" / "references"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """How Attempt 3 ends.

    Attributes:
        objective: of the final image, as the published code computes it.
        steps: that were made.
        made_by: "published": the published code itself; "engine": the same procedure (objective, zero padding, Adam,
            noise) in one pass a step through the engine, in its default precision.
        totals: the objective before each step's move.
        seconds: of each step.
    """

    objective: float
    steps: int
    made_by: str
    totals: list[float]
    seconds: list[float]


def attempt_3_judge(inputs: Inputs) -> Judge:
    """The published objective of Attempt 3 on those pictures."""
    weights = example_weights()
    surrogate = Published(weights, inputs).surrogate()
    objective = Objective(prefixes(weights), SINGLE_SHOT, content=to_image(inputs.content), style=surrogate)

    @torch.no_grad()
    def judge(image: Tensor) -> float:
        return float(objective(image))

    return judge


def attempt_3_reference(size: int, steps: int, *, by_published: bool, out: Path) -> Reference:
    """How Attempt 3 ends at that size: run now by the published code, or kept, or run now through the engine.

    Args:
        size: longer side in pixels.
        steps: to make.
        by_published: run the published code itself, whatever is kept.
        out: folder to keep it in.
    """
    inputs = decode_inputs(example_request(size), max_pixels=MAX_PIXELS)
    height, width = inputs.labels.shape
    name = f"reference-{height}x{width}"
    key = {"pictures": fingerprint(inputs), "steps": steps}
    kept = None if by_published else load(out, name, key)
    if kept is not None:
        return Reference(**kept)
    made_by = "published" if by_published else "engine"
    sys.stderr.write(f"{name}: {steps} published steps, by {made_by}\n")
    samples, image = _published(inputs, steps) if by_published else _through_engine(size, steps)
    ends = [0.0, *(seconds for seconds, _ in samples)]
    found = Reference(
        objective=attempt_3_judge(inputs)(image),
        steps=steps,
        made_by=made_by,
        totals=[total for _, total in samples],
        seconds=[after - before for before, after in pairwise(ends)],
    )
    save(out, name, key, asdict(found))
    return found


Samples = list[tuple[float, float]]
"""(seconds so far, objective before the move) of each step."""


def _published(inputs: Inputs, steps: int) -> tuple[Samples, Tensor]:
    images: list[Tensor] = []

    def run() -> Iterator[Step]:
        images.append(
            (yield from Published(example_weights(), inputs, schedule=Schedule(single_shot=steps)).attempt_3())
        )

    samples = [(seconds, step.total) for seconds, step in clocked(run())]
    return samples, images[0]


def _through_engine(size: int, steps: int) -> tuple[Samples, Tensor]:
    request = example_request(size, method="single-shot", paper=True, steps=steps)
    samples = []
    for seconds, move in clocked(engine.moves(request, new_encoder(request))):
        samples.append((seconds, move.total))
    return samples, move.image


def fingerprint(inputs: Inputs) -> str:
    """Of the pictures at their size and of the weights."""
    digest = hashlib.sha256()
    covers = [cover for cover in inputs.covers if cover is not None]
    digest.update(inputs.labels.tobytes())
    for pixels in (inputs.content, *covers):
        digest.update(pixels.tobytes())
    for weight, bias in example_weights():
        digest.update(weight.numpy().tobytes() + bias.numpy().tobytes())
    return digest.hexdigest()


def load(out: Path, name: str, key: Mapping[str, object]) -> dict[str, Any] | None:
    """What is kept under a name, if it was made of the same."""
    for folder in (out, SHIPPED):
        path = folder / f"{name}.json"
        if path.is_file():
            values: dict[str, Any] = json.loads(path.read_text())
            if values["made_of"] == dict(key):
                found: dict[str, Any] = values["found"]
                return found
    return None


def save(out: Path, name: str, key: Mapping[str, object], found: Mapping[str, object]) -> None:
    """Keeps it in the output folder."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{name}.json", json.dumps({"made_of": key, "found": found}).encode())
