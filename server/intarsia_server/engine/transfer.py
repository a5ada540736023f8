"""Runs a method: a generator that yields what happens and knows nothing of who listens."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, poll
from intarsia_server.engine.convergence import Convergence
from intarsia_server.engine.encoder import Encoder, denormalise
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import StageDone, StageStarted, StepDone, TransferEvent, TransferWarning
from intarsia_server.engine.half_size import at_half_size
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.methods import Stage, StageStart, stages
from intarsia_server.engine.objective import ObjectiveBuilder
from intarsia_server.engine.optimizers import LBFGS, Adam, StepOptimizer
from intarsia_server.engine.request import (
    Automatic,
    Boxes,
    LabelMapSource,
    Optimizer,
    Scribbles,
    Segmentation,
    SoftMasks,
    Start,
    TransferRequest,
    Until,
)
from intarsia_server.engine.stepping import run_steps
from intarsia_server.engine.weights import EMBEDDED

_PAPER_ON_EMBEDDED = (
    "the publication's weights were tuned on torchvision's encoder; the embedded one's features are 20 to 200 times "
    "larger, which makes style outweigh content"
)


def transfer(
    request: TransferRequest, inputs: Inputs, encoder: Encoder, *, cancelled: Cancelled
) -> Generator[TransferEvent, None, Pixels]:
    """Runs the request's method.

    Args:
        request: resolved.
        inputs: its decoded pictures.
        encoder: already in the wanted precision.
        cancelled: polled before each step and each pass over a style image.

    Yields:
        Warnings, and for each stage its start, every step and its end.

    Returns:
        The result, RGB [H, W, 3].

    Raises:
        CancelledError: `cancelled` said so.
    """
    yield from (TransferWarning(*warning) for warning in inputs.warnings)
    if request.paper and request.encoder == EMBEDDED:
        yield TransferWarning("paper_weights_for_torchvision", _PAPER_ON_EMBEDDED)
    rooms = _Rooms(request, inputs, encoder_for(request, encoder), cancelled)
    plan = stages(request.parameters, inputs.styled, paper=request.paper, size=rooms.full.size)
    first = composite = rooms.full.start
    total_cost = sum(stage.cost for stage in plan)
    done = 0.0
    for index, stage in enumerate(plan):
        yield StageStarted(stage.name, index, len(plan), stage.steps)
        room = rooms.half if stage.half else rooms.full
        start = {StageStart.JOB: room.start, StageStart.FIRST: first, StageStart.COMPOSITE: composite}[stage.start]
        if request.optimization.start is Start.PALETTE and stage.start is not StageStart.COMPOSITE:
            start = room.builder.recolour(start, stage.losses)
        optimizer = _optimizer(request, start)
        scope = None if stage.scope is None else torch.from_numpy(inputs.labels == stage.scope).to(composite.device)
        shown = partial(rooms.shown, scope=scope, onto=composite)
        convergence = Convergence() if request.optimization.until is Until.CONVERGED else None
        yield from _run_stage(stage, room.builder, optimizer, convergence, shown, (done, total_cost), cancelled)
        done += stage.cost
        if index == 0:
            first = shown(optimizer.image)
        composite = shown(optimizer.image)
    return _to_pixels(composite, inputs)


def encoder_for(request: TransferRequest, encoder: Encoder) -> Encoder:
    """The encoder, padding as the request's objective asks: the publication's is exact down to its frame of zeros."""
    return encoder.padding_with_zeros() if request.paper else encoder


def describe(request: TransferRequest, versions: dict[str, str]) -> dict[str, str]:
    """Text chunks for the result: the full parameters, so that the picture can be made again."""
    parameters = {
        "method": request.parameters.method,
        "paper": request.paper,
        "parameters": asdict(request.parameters),
        "optimization": {
            "optimizer": request.optimization.optimizer,
            "learning_rate": request.optimization.learning_rate,
            "history": request.optimization.history,
            "start": request.optimization.start,
            "start_image_sha256": _sha256(request.optimization.start_image),
            "until": request.optimization.until,
        },
        "output": asdict(request.output),
        "seed": request.seed,
        "encoder": request.encoder,
        "precision": request.precision,
        "content_sha256": _sha256(request.content),
        "segmentation": _describe_segmentation(request.segmentation),
        "segments": [
            {
                "labels": segment.labels,
                "style_sha256": _sha256(segment.style),
                "style_weight": segment.style_weight,
                "style_scale": segment.style_scale,
                "content_weight": segment.content_weight,
            }
            for segment in request.segments
        ],
        "versions": versions,
    }
    return {"Software": f"intarsia {versions['intarsia']}", "intarsia": json.dumps(parameters)}


def _describe_segmentation(source: Segmentation) -> dict[str, object]:
    """Its kind and values, with a hash for every picture."""
    match source:
        case LabelMapSource(data=data):
            return {"label_map_sha256": _sha256(data)}
        case SoftMasks(masks=masks):
            return {"soft_masks": [{"label": mask.label, "sha256": _sha256(mask.data)} for mask in masks]}
        case Boxes():
            return asdict(source)
        case Scribbles(data=data):
            return {"scribbles_sha256": _sha256(data)}
        case Automatic(model=model):
            return {"automatic": model}


def _run_stage(
    stage: Stage,
    builder: ObjectiveBuilder,
    optimizer: StepOptimizer,
    convergence: Convergence | None,
    shown: Callable[[Tensor], Tensor],
    progress: tuple[float, float],
    cancelled: Cancelled,
) -> Generator[TransferEvent, None, None]:
    began = time.perf_counter()
    poll(cancelled)
    objective = builder.build(stage.losses, capped=stage.capped)
    if stage.half:
        builder.warnings.clear()  # the stage at full size that follows says what is true of the result
    while builder.warnings:
        yield TransferWarning(*builder.warnings.pop(0))
    done, total_cost = progress
    taken = run_steps(optimizer, objective, stage.steps)
    for step in range(1, stage.steps + 1):
        poll(cancelled)
        evaluation = next(taken)
        if not math.isfinite(evaluation.total):
            where = f"step {step} of stage {stage.name!r}"
            raise InvalidInputError("method", f"its objective is not finite at {where}; lower weights or learning rate")
        converged = convergence is not None and convergence.reached(evaluation.total)
        # A stage that ends here leaves no share of the job to be done, however many steps it could have taken.
        share = 1.0 if converged else step / stage.steps
        yield StepDone(
            stage=stage.name,
            step=step,
            steps=stage.steps,
            losses=evaluation.losses,
            total=evaluation.total,
            fraction=(done + stage.cost * share) / total_cost,
            image=lambda: _pixels(shown(optimizer.image)),
            converged=converged,
        )
        if converged:
            break
    taken.close()
    yield StageDone(stage.name, step, time.perf_counter() - began, evaluation.losses, evaluation.total, converged)


@dataclass(frozen=True)
class _Room:
    """A size that stages work at.

    Attributes:
        size: (width, height) in pixels.
        builder: of that size's objectives.
        start: what a job starts from [1, 3, H, W].
    """

    size: tuple[int, int]
    builder: ObjectiveBuilder
    start: Tensor


class _Rooms:
    """The sizes that a job's stages work at: the output's, and half of it for those that ask for it."""

    def __init__(self, request: TransferRequest, inputs: Inputs, encoder: Encoder, cancelled: Cancelled) -> None:
        self._request = request
        self._inputs = inputs
        self._encoder = encoder
        self._cancelled = cancelled
        self.full = self._room(inputs)

    @cached_property
    def half(self) -> _Room:
        """Made when a stage first asks for it."""
        return self._room(at_half_size(self._inputs, self._request.segments))

    def shown(self, image: Tensor, *, scope: Tensor | None, onto: Tensor) -> Tensor:
        """The composite as a stage leaves it: its image at full size, but only where its scope [H, W] lies."""
        if image.shape != onto.shape:
            larger = torch.nn.functional.interpolate(image, onto.shape[2:], mode="bicubic", align_corners=False)
            image = torch.where(self.full.builder.free > 0, larger, onto)
        return image if scope is None else torch.where(scope, image, onto)

    def _room(self, inputs: Inputs) -> _Room:
        request = self._request
        builder = ObjectiveBuilder(
            self._encoder, inputs, request.segments, paper=request.paper, cancelled=self._cancelled
        )
        height, width = inputs.labels.shape
        return _Room((width, height), builder, _start_image(request, inputs, builder))


def _optimizer(request: TransferRequest, start: Tensor) -> StepOptimizer:
    options = request.optimization
    if options.optimizer is Optimizer.ADAM:
        return Adam(start, learning_rate=options.learning_rate)
    return LBFGS(start, history=options.history)


def _start_image(request: TransferRequest, inputs: Inputs, builder: ObjectiveBuilder) -> Tensor:
    """Content, noise or a given image; kept segments always start, and so stay, as they are in the content."""
    match request.optimization.start:
        case Start.CONTENT | Start.PALETTE:
            return builder.content
        case Start.NOISE:
            # Made on the CPU, so that a seed means the same noise on every device.
            generator = torch.Generator().manual_seed(request.seed)
            start = torch.randn(builder.content.shape, generator=generator).to(builder.content)
        case Start.IMAGE:
            assert inputs.start is not None
            start = builder.to_image(inputs.start)
    return torch.where(builder.free > 0, start, builder.content)


def _to_pixels(image: Tensor, inputs: Inputs) -> Pixels:
    """Kept segments are copied from the content image, so that they come out to the very bit."""
    pixels = _pixels(image)
    kept = ~torch.isin(torch.from_numpy(inputs.labels), torch.tensor(inputs.styled)).numpy()
    pixels[kept] = inputs.content[kept]
    return pixels


def _pixels(image: Tensor) -> Pixels:
    rgb = (denormalise(image.detach())[0] * 255).round().to(torch.uint8)
    return rgb.permute(1, 2, 0).cpu().numpy().copy()


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()
