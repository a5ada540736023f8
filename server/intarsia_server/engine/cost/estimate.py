"""What a job will take: seconds by its work and the device's speed, and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from intarsia_server.engine.cost.memory import job_budget, peak_memory, tile_pixels_for
from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.cost.work import Size, StageWork, job_work
from intarsia_server.engine.request import Precision, TransferRequest
from intarsia_server.engine.tiles import tile_count


@dataclass(frozen=True)
class StageEstimate:
    """A stage: its name, its steps, and its seconds, targets and all steps."""

    name: str
    steps: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """A job.

    Attributes:
        preparation_seconds: of all that is done outside of its stages.
        stages: in their order.
        memory_bytes: that it adds at its peak to what an idle worker holds.
        tiles: that the encoder sees the picture in, one after another; 1: as a whole.
    """

    preparation_seconds: float
    stages: tuple[StageEstimate, ...]
    memory_bytes: int
    tiles: int

    @property
    def seconds(self) -> float:
        """From its start to its result."""
        return self.preparation_seconds + sum(stage.seconds for stage in self.stages)


def estimate_job(
    request: TransferRequest,
    size: Size,
    *,
    speeds: Mapping[Precision, Speed],
    default_precision: Precision,
    default_encoder: str,
    memory_budget: int | None = None,
    areas: Mapping[str, float] | None = None,
) -> Estimate:
    """Estimates a job.

    Args:
        request: checked by `check_inputs`.
        size: (width, height) of the output.
        speeds: of the device, at every precision but AUTO.
        default_precision: what AUTO stands for there.
        default_encoder: what is loaded there, in that precision.
        memory_budget: bytes that the worker may hold in all, unless the request says; None: whatever it takes.
        areas: as of `job_work`.
    """
    precision = resolved(request.precision, default_precision)
    speed = speeds[precision]
    loaded = (request.encoder, precision) == (default_encoder, default_precision)
    needed = partial(peak_memory, request, size, precision=precision, loaded=loaded)
    memory = request.optimization.memory_bytes or memory_budget
    tile_pixels = None if memory is None else tile_pixels_for(needed, size, job_budget(memory))
    work = job_work(request, size, areas, tile_pixels)
    return Estimate(
        preparation_seconds=work.flops * speed.seconds_per_flop + work.pixels * speed.seconds_per_pixel,
        stages=tuple(StageEstimate(s.stage.name, s.stage.steps, _seconds(s, speed)) for s in work.stages),
        memory_bytes=needed(areas=areas, tile_pixels=tile_pixels),
        tiles=tile_count(size[1], size[0], tile_pixels),
    )


def resolved(precision: Precision, default: Precision) -> Precision:
    """What a request's precision stands for on a device with that default."""
    return default if precision is Precision.AUTO else precision


def _seconds(work: StageWork, speed: Speed) -> float:
    step = speed.seconds_per_step + work.step_flops * speed.seconds_per_flop
    build = work.build_flops * speed.seconds_per_flop + work.build_pixels * speed.seconds_per_pixel
    return build + work.stage.steps * step
