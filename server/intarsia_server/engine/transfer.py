"""Runs a method: a generator that yields what happens and knows nothing of who listens."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from intarsia_server.engine.cancel import Cancelled, never, poll
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.engine.convergence import Convergence
from intarsia_server.engine.encoder import Encoder, denormalise
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import StepDone, TransferEvent, TransferWarning
from intarsia_server.engine.half_size import at_half_size
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.methods import Stage, StageStart, stages
from intarsia_server.engine.objective import ROWS, ObjectiveBuilder
from intarsia_server.engine.optimizers import LBFGS, Adam, Losses, StepOptimizer
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
from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.engine.stepping import run_steps
from intarsia_server.engine.target_cache import Counts, JobTargets, TargetCache
from intarsia_server.engine.tile_share import Comparisons, Crew, Part, Place, Sums, TileShare
from intarsia_server.engine.tiled_objective import TiledObjective
from intarsia_server.engine.weights import EMBEDDED
from intarsia_server.engine.window import Window, window_around

_PAPER_ON_EMBEDDED = (
    "the publication's weights were tuned on torchvision's encoder; the embedded one's features are 20 to 200 times "
    "larger, which makes style outweigh content"
)


def transfer(
    request: TransferRequest,
    inputs: Inputs,
    encoder: Encoder,
    *,
    cancelled: Cancelled,
    targets: TargetCache | None = None,
    resume: Checkpoint | None = None,
    tile_pixels: int | None = None,
    crew: Crew | None = None,
) -> Generator[TransferEvent, None, Pixels]:
    """Runs the request's method.

    On a CPU a transfer that is taken up at a checkpoint has the same steps and the same result, bit for bit.

    Args:
        request: resolved.
        inputs: its decoded pictures.
        encoder: already in the wanted precision.
        cancelled: polled before each step and each pass over a style image, and before each tile.
        targets: what earlier jobs have computed of style images, and where this one leaves what it computes.
        resume: a checkpoint of the same request to go on from.
        tile_pixels: the most that the encoder sees at a time, as `tile_pixels_for` finds it; a larger picture it sees
            tile by tile, to the same end but for rounding. None: every picture as a whole.
        crew: other workers, of which each has a `TransferShare`; None: this one sees all tiles.

    Yields:
        Warnings, and for each stage its start, every step and its end; from `resume` on no warning that came before it,
        and the start of its stage once more.

    Returns:
        The result, RGB [H, W, 3].

    Raises:
        CancelledError: `cancelled` said so.
    """
    if resume is None:
        yield from (TransferWarning(*warning) for warning in inputs.warnings)
        if request.paper and request.encoder == EMBEDDED:
            yield TransferWarning("paper_weights_for_torchvision", _PAPER_ON_EMBEDDED)
    rooms = _Rooms(request, inputs, encoder_for(request, encoder), cancelled, JobTargets(targets), tile_pixels)
    plan = stages(request.parameters, inputs.styled, paper=request.paper, size=rooms.full.size)
    composite = rooms.full.start
    first: Tensor | None = None
    earlier: tuple[StageDone, ...] = ()
    if resume is not None:
        composite = composite if resume.composite is None else resume.composite.to(composite)
        first = None if resume.first is None else resume.first.to(composite)
        earlier = resume.earlier
    total_cost = sum(rooms.cost(stage) for stage in plan)
    for index, stage in enumerate(plan[len(earlier) :], len(earlier)):
        room = rooms.of(stage)
        share = 1.0 if room.window is None else room.window.share
        yield StageStarted(stage.name, index, len(plan), stage.steps, share)
        if resume is None:
            begun = composite if first is None else first
            start = {StageStart.JOB: room.start, StageStart.FIRST: begun, StageStart.COMPOSITE: composite}[stage.start]
            if request.optimization.start is Start.PALETTE and stage.start is not StageStart.COMPOSITE:
                start = room.builder.recolour(start, stage.losses)
            start = start if room.window is None else room.window.crop(start)
        else:
            start = resume.optimizer["image"].to(composite)
        optimizer = _optimizer(request, start, stage.steps)
        del start  # the optimizer has its own; a stage's steps need the room
        scope = None if stage.scope is None else torch.from_numpy(inputs.labels == stage.scope).to(composite.device)
        shown = partial(rooms.shown, window=room.window, scope=scope, onto=composite)
        if resume is not None and resume.ended:
            summary = resume.so_far
        else:
            done = sum(rooms.cost(stage) for stage in plan[:index])
            around = partial(Checkpoint, earlier=earlier, composite=composite if earlier else None, first=first)
            totals: tuple[float, ...] = ()
            if resume is not None:
                optimizer.load(resume.optimizer)
                totals = resume.totals
                # It has what it needs of these; a stage's steps need the room.
                resume = replace(resume, optimizer={}, composite=None, first=None)
            convergence = Convergence(totals) if request.optimization.until is Until.CONVERGED else None
            progress = done, rooms.cost(stage), total_cost
            summary = yield from _run_stage(
                stage,
                room,
                tuple if crew is None else partial(crew.shares, index),
                optimizer,
                convergence,
                shown,
                progress,
                cancelled,
                around,
                resume,
            )
        resume = None
        yield summary
        earlier = (*earlier, summary)
        composite = shown(optimizer.image)
        if first is None and not stage.half:
            first = composite
    return _to_pixels(composite, inputs)


class TransferShare:
    """What a worker does whose part in another's transfer is to see some of its tiles.

    Args:
        request, inputs, tile_pixels: the other's.
        encoder: of the same weights and precision.
        place: of this worker; the other one has place 0.
        targets: as of `transfer`.
    """

    def __init__(
        self,
        request: TransferRequest,
        inputs: Inputs,
        encoder: Encoder,
        *,
        tile_pixels: int,
        place: Place,
        targets: TargetCache | None = None,
    ) -> None:
        self._rooms = _Rooms(request, inputs, encoder_for(request, encoder), never, JobTargets(targets), tile_pixels)
        self._plan = stages(request.parameters, inputs.styled, paper=request.paper, size=self._rooms.full.size)
        self._place = place
        self._objective: TiledObjective | None = None
        self._image: Tensor

    def begin(self, number: int) -> None:
        """Gets ready for a stage, which has tiles."""
        stage = self._plan[number]
        self._objective = None  # the targets of the stage before go before these come
        room = self._rooms.of(stage)
        objective = room.builder.build(stage.losses, capped=stage.capped, window=room.window, place=self._place)
        assert isinstance(objective, TiledObjective)
        self._objective = objective

    def sums(self, image: Tensor) -> Sums:
        """The first pass over its tiles, given the image in their window."""
        assert self._objective is not None
        self._image = image.to(self._rooms.full.start)
        return self._objective.sums(self._image)

    def part(self, compared: Comparisons) -> Part:
        """The second pass, over the same image."""
        found = {
            index: ({layer: gram.to(self._image) for layer, gram in differences.items()}, losses)
            for index, (differences, losses) in compared.items()
        }
        assert self._objective is not None
        return self._objective.part(self._image, found)


def encoder_for(request: TransferRequest, encoder: Encoder) -> Encoder:
    """The encoder, padding as the request's objective asks: the publication's is exact down to its frame of zeros."""
    return encoder.padding_with_zeros if request.paper else encoder


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
            "memory_bytes": request.optimization.memory_bytes,
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
                "style_sha256": segment.style_sha256,
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
    room: _Room,
    others: Callable[[], Sequence[TileShare]],
    optimizer: StepOptimizer,
    convergence: Convergence | None,
    shown: Callable[[Tensor], Tensor],
    progress: tuple[float, float, float],
    cancelled: Cancelled,
    around: partial[Checkpoint],
    resume: Checkpoint | None,
) -> Generator[TransferEvent, None, StageDone]:
    """Its steps, with all of a checkpoint but the stage's own part in `around`; returns how it ended."""
    began = time.perf_counter() - (0.0 if resume is None else resume.so_far.seconds)
    poll(cancelled)
    builder = room.builder
    before = builder.targets.counts
    objective = builder.build(stage.losses, capped=stage.capped, window=room.window, others=others)
    warnings = builder.warnings
    ahead: Losses | None = None
    if resume is None:
        taken, targets = 0, builder.targets.counts - before
    else:
        taken, targets = resume.so_far.steps, Counts(resume.so_far.targets, resume.so_far.cached_targets)
        ahead = _ahead(resume)
    if stage.half or resume is not None:
        # The stage at full size that follows says what is true of the result; one that goes on has said it.
        warnings.clear()
    while warnings:
        yield TransferWarning(*warnings.pop(0))
    done, cost, total_cost = progress
    graphed = not isinstance(objective, TiledObjective)
    steps = run_steps(optimizer, objective, stage.steps - taken, ahead, graphed=graphed)
    for step in range(taken + 1, stage.steps + 1):
        poll(cancelled)
        latest = next(steps)
        evaluation = latest.losses
        if not math.isfinite(evaluation.total):
            where = f"step {step} of stage {stage.name!r}"
            raise InvalidInputError("method", f"its objective is not finite at {where}; lower weights or learning rate")
        converged = convergence is not None and convergence.reached(evaluation.total)
        # A stage that ends here leaves no share of the job to be done, however many steps it could have taken.
        share = 1.0 if converged else step / stage.steps
        summary = StageDone(
            stage=stage.name,
            steps=step,
            seconds=time.perf_counter() - began,
            losses=evaluation.losses,
            total=evaluation.total,
            targets=targets.total,
            cached_targets=targets.cached,
            converged=converged,
        )
        ended = converged or step == stage.steps
        yield StepDone(
            stage=stage.name,
            step=step,
            steps=stage.steps,
            losses=evaluation.losses,
            total=evaluation.total,
            fraction=(done + cost * share) / total_cost,
            image=lambda: _pixels(shown(optimizer.image)),
            exact=lambda: shown(optimizer.image),
            checkpoint=partial(_checkpoint, around, summary, ended, optimizer, convergence, latest.ahead),
            converged=converged,
        )
        if converged:
            break
    steps.close()
    return replace(summary, seconds=time.perf_counter() - began)


def _checkpoint(
    around: partial[Checkpoint],
    so_far: StageDone,
    ended: bool,
    optimizer: StepOptimizer,
    convergence: Convergence | None,
    ahead: Callable[[], Losses] | None,
) -> Checkpoint:
    """After a step that has just been told of."""
    return around(
        so_far=so_far,
        ended=ended,
        totals=() if convergence is None or ended else convergence.totals,
        ahead=None if ahead is None or ended else tuple(ahead().values.tolist()),
        optimizer={"image": optimizer.image} if ended else optimizer.state,
    )


def _ahead(resume: Checkpoint) -> Losses | None:
    """Those that a checkpoint has values of; their terms are a stage's own, the same at each step."""
    if resume.ahead is None:
        return None
    return Losses(
        tuple((name, segment) for name, segment, _ in resume.so_far.losses),
        torch.tensor(resume.ahead, dtype=torch.float64),
    )


@dataclass(frozen=True)
class _Room:
    """Where stages work: a size, and there the whole picture or a part of it.

    Attributes:
        size: (width, height) of the whole picture in pixels.
        builder: of that size's objectives.
        start: what a job starts from [1, 3, H, W], the whole of it.
        window: the part; None: the whole picture.
    """

    size: tuple[int, int]
    builder: ObjectiveBuilder
    start: Tensor
    window: Window | None = None


class _Rooms:
    """Where a job's stages work: at the output's size, or at half of it or in a window for those that ask for it."""

    def __init__(
        self,
        request: TransferRequest,
        inputs: Inputs,
        encoder: Encoder,
        cancelled: Cancelled,
        targets: JobTargets,
        tile_pixels: int | None,
    ) -> None:
        self._tile_pixels = tile_pixels
        self._request = request
        self._inputs = inputs
        self._encoder = encoder
        self._cancelled = cancelled
        self._targets = targets
        self.full = self._room(inputs)

    @cached_property
    def half(self) -> _Room:
        """Made when a stage first asks for it."""
        return self._room(at_half_size(self._inputs, self._request.segments))

    def of(self, stage: Stage) -> _Room:
        """Where a stage works."""
        if stage.half:
            return self.half
        return replace(self.full, window=self._window(stage))

    def cost(self, stage: Stage) -> float:
        """Of a stage, in steps with the whole picture at the output's size."""
        window = self._window(stage)
        return stage.cost if window is None else stage.cost * window.share

    def shown(self, image: Tensor, *, window: Window | None, scope: Tensor | None, onto: Tensor) -> Tensor:
        """The composite as a stage leaves it: its image at full size, but only where its scope [H, W] lies."""
        if window is not None:
            image = window.paste(image, onto)
        elif image.shape != onto.shape:
            larger = torch.nn.functional.interpolate(image, onto.shape[2:], mode="bicubic", align_corners=False)
            image = torch.where(self.full.builder.free > 0, larger, onto)
        return image if scope is None else torch.where(scope, image, onto)

    def _window(self, stage: Stage) -> Window | None:
        if not stage.windowed:
            return None
        assert stage.scope is not None
        return window_around(self.full.builder.mask(stage.scope))

    def _room(self, inputs: Inputs) -> _Room:
        request = self._request
        builder = ObjectiveBuilder(
            self._encoder,
            inputs,
            request.segments,
            paper=request.paper,
            cancelled=self._cancelled,
            targets=self._targets,
            tile_pixels=self._tile_pixels,
        )
        height, width = inputs.labels.shape
        return _Room((width, height), builder, _start_image(request, inputs, builder))


def _optimizer(request: TransferRequest, start: Tensor, steps: int) -> StepOptimizer:
    options = request.optimization
    if options.optimizer is Optimizer.ADAM:
        return Adam(start, learning_rate=options.learning_rate)
    return LBFGS(start, history=min(options.history, steps))


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
    result: Pixels = np.empty((image.shape[2], image.shape[3], 3), dtype=np.uint8)
    # What stands between the two takes several times their memory.
    for start in range(0, len(result), ROWS):
        rows = (denormalise(image[:, :, start : start + ROWS].detach())[0] * 255).round().to(torch.uint8)
        result[start : start + ROWS] = rows.permute(1, 2, 0).cpu().numpy()
    return result


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()
