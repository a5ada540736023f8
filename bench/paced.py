"""A server whose workers do nothing but say, at a set pace, that steps are done.

Its front has as much to do as with GPUs, of which there need be none: `python -m bench.paced SECONDS` and then the
server's own arguments.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection

from intarsia_server.app import main as run_server
from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.device_info import DeviceInfo
from intarsia_server.engine.parameters import MaskedGramParameters
from intarsia_server.engine.request import ImageFormat, Precision, TransferRequest
from intarsia_server.engine.stages import LossValue, StageDone, StageStarted
from intarsia_server.executors.base import ExecutorInfo, ProgressEvent, ResultEvent
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.messages import Ready, RunCommand, WorkerConfig
from intarsia_server.workers import worker_configs

STAGE = "masked gram"
RESULT_BYTES = 600_000
"""About what a picture of 600 x 400 has as a PNG."""


def run_paced_worker(
    step_seconds: float, connection: Connection, cancelled_serial: ctypes.c_ulonglong, config: WorkerConfig
) -> None:
    """A worker process's main function: takes its time for each step of a transfer, and no processor.

    Args:
        step_seconds: that a step takes.
        connection: commands in, messages out.
        cancelled_serial: not looked at.
        config: of this worker.
    """
    del cancelled_serial
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    speed = Speed(seconds_per_step=step_seconds, seconds_per_flop=0.0, seconds_per_pixel=0.0)
    device = DeviceInfo(config.device, "paced", memory_bytes=2**36, threads=1)
    connection.send(Ready(ExecutorInfo((device,), "none", Precision.FP32, dict.fromkeys(Precision, speed), 0)))
    picture = os.urandom(RESULT_BYTES)
    command: RunCommand | None
    try:
        while (command := connection.recv()) is not None:
            assert isinstance(command.request, TransferRequest)
            _run(connection, command.request, step_seconds, picture)
    except (EOFError, OSError):
        return  # the front is gone


def _run(connection: Connection, request: TransferRequest, step_seconds: float, picture: bytes) -> None:
    assert isinstance(request.parameters, MaskedGramParameters)
    steps = request.parameters.steps
    labels = range(len(request.segments))
    losses: tuple[LossValue, ...] = tuple(
        (name, label, 1.5) for name in ("content", "style", "variation") for label in labels
    )
    connection.send(StageStarted(STAGE, 0, 1, steps))
    due = time.perf_counter()
    for step in range(1, steps + 1):
        due += step_seconds
        time.sleep(max(0.0, due - time.perf_counter()))
        connection.send(ProgressEvent(STAGE, step, steps, losses, 12.0, step / steps, (steps - step) * step_seconds))
    done = StageDone(STAGE, steps, steps * step_seconds, losses, 12.0, targets=1, cached_targets=0)
    connection.send(ResultEvent(picture, ImageFormat.PNG, 600, 400, (done,)))


def main(arguments: Sequence[str]) -> int:
    """Runs the server."""
    worker = partial(run_paced_worker, float(arguments[0]))
    return run_server(arguments[1:], lambda settings: LocalExecutor(worker_configs(settings), worker))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
