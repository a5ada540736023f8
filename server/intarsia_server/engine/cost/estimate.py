"""What a job will take: seconds by its work and the device's speed, and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from intarsia_server.engine.cost.memory import peak_memory
from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.cost.work import Size, StageWork, job_work
from intarsia_server.engine.request import Precision, TransferRequest


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
    """

    preparation_seconds: float
    stages: tuple[StageEstimate, ...]
    memory_bytes: int

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
    areas: Mapping[str, float] | None = None,
) -> Estimate:
    """Estimates a job.

    Args:
        request: checked by `check_inputs`.
        size: (width, height) of the output.
        speeds: of the device, at every precision but AUTO.
        default_precision: what AUTO stands for there.
        default_encoder: what is loaded there, in that precision.
        areas: as of `job_work`.
    """
    precision = resolved(request.precision, default_precision)
    speed = speeds[precision]
    work = job_work(request, size, areas)
    loaded = (request.encoder, precision) == (default_encoder, default_precision)
    return Estimate(
        preparation_seconds=work.flops * speed.seconds_per_flop + work.pixels * speed.seconds_per_pixel,
        stages=tuple(StageEstimate(s.stage.name, s.stage.steps, _seconds(s, speed)) for s in work.stages),
        memory_bytes=peak_memory(request, size, precision=precision, loaded=loaded, areas=areas),
    )


def resolved(precision: Precision, default: Precision) -> Precision:
    """What a request's precision stands for on a device with that default."""
    return default if precision is Precision.AUTO else precision


def _seconds(work: StageWork, speed: Speed) -> float:
    step = speed.seconds_per_step + work.step_flops * speed.seconds_per_flop
    build = work.build_flops * speed.seconds_per_flop + work.build_pixels * speed.seconds_per_pixel
    return build + work.stage.steps * step
