"""From a job that may come to a message that says what it would take."""

from __future__ import annotations

from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.cost.estimate import resolved
from intarsia_server.engine.inputs import Checked
from intarsia_server.engine.request import TransferRequest, Until
from intarsia_server.executors.base import ExecutorInfo
from intarsia_server.jobs.forecast import Forecaster
from intarsia_server.jobs.manager import JobManager
from intarsia_server.jobs.model import Job
from intarsia_server.rpc.responses import PRECISIONS, to_device, to_duration


def to_estimate_response(
    request: TransferRequest,
    checked: Checked,
    info: ExecutorInfo,
    jobs: JobManager,
    forecaster: Forecaster,
    *,
    client: str,
) -> pb.EstimateResponse:
    """The message.

    Args:
        request: checked.
        checked: what is known of it.
        info: of the workers.
        jobs: those that are there already.
        forecaster: by the devices' speed as it is now.
        client: whose job it would be.
    """

    def seconds_of(job: Job) -> float | None:
        if not isinstance(job.request, TransferRequest):
            return None
        return forecaster.estimate(job.request, job, info).seconds

    found = forecaster.estimate(request, checked, info)
    position = jobs.next_position(client)
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
        queue_position=position,
        device=to_device(info.devices[0]),
        precision=PRECISIONS[resolved(request.precision, info.default_precision)],
        at_most=request.optimization.until is Until.CONVERGED,
        tiles=found.tiles,
    )
    wait = jobs.admission.wait(client, seconds_of) if position else 0.0
    if wait is not None:
        response.queued_time.CopyFrom(to_duration(wait))
    return response
