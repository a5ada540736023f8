"""From a job that may come to a message that says what it would take."""

from __future__ import annotations

import time

from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.cost.estimate import Estimate, estimate_job, resolved
from intarsia_server.engine.inputs import Checked
from intarsia_server.engine.request import TransferRequest, Until
from intarsia_server.executors.base import ExecutorInfo
from intarsia_server.jobs.manager import JobManager
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.waiting import expected_wait
from intarsia_server.rpc.responses import PRECISIONS, to_device, to_duration


def to_estimate_response(
    request: TransferRequest,
    checked: Checked,
    info: ExecutorInfo,
    jobs: JobManager,
    *,
    slots: int,
    default_encoder: str,
) -> pb.EstimateResponse:
    """The message.

    Args:
        request: checked.
        checked: what is known of it.
        info: of the workers.
        jobs: those that are there already.
        slots: how many of them run at a time.
        default_encoder: what the workers have loaded.
    """

    def estimate(request: TransferRequest, checked: Checked | Job) -> Estimate:
        return estimate_job(
            request,
            checked.size,
            areas=checked.areas,
            speeds=info.speeds,
            default_precision=info.default_precision,
            default_encoder=default_encoder,
            memory_budget=info.memory_budget,
        )

    def seconds_of(job: Job) -> float | None:
        return estimate(job.request, job).seconds if isinstance(job.request, TransferRequest) else None

    found = estimate(request, checked)
    response = pb.EstimateResponse(
        width=checked.size[0],
        height=checked.size[1],
        run_time=to_duration(found.seconds),
        preparation=to_duration(found.preparation_seconds),
        stages=[
            pb.StageEstimate(stage=stage.name, steps=stage.steps, run_time=to_duration(stage.seconds))
            for stage in found.stages
        ],
        memory_bytes=found.memory_bytes,
        idle_memory_bytes=info.idle_memory,
        queue_position=jobs.next_position,
        device=to_device(info.devices[0]),
        precision=PRECISIONS[resolved(request.precision, info.default_precision)],
        at_most=request.optimization.until is Until.CONVERGED,
        tiles=found.tiles,
    )
    wait = expected_wait(jobs.jobs, slots, seconds_of, now=time.monotonic()) if jobs.next_position else 0.0
    if wait is not None:
        response.queued_time.CopyFrom(to_duration(wait))
    return response
