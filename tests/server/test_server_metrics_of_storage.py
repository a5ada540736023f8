"""Metrics of what outlives a worker and a server: checkpoints, jobs that go on, and files."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from server_jobs import failure_of, long_request, read_until, run_job, tiny_request
from server_metrics import scrape
from server_process import LONG, ServerProcess, eventually

STARTS = {"metrics_address": "127.0.0.1:0", "checkpoint_seconds": 0.05}
KIND = "masked-gram"


def endless_request() -> pb.StylizeRequest:
    """A long job that does not end with its call."""
    request = long_request()
    request.request_id = str(uuid.uuid4())
    request.on_disconnect = pb.ON_DISCONNECT_DETACH
    return request


def test_jobs_that_go_on(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    server = start_server(data_dir=tmp_path, **STARTS)
    server.wait_until_ready()
    request = endless_request()
    assert ("intarsia_checkpoint_age_seconds",) not in scrape(server)
    with server.stub() as stub:
        call = stub.Stylize(request, timeout=LONG)
        job_id = read_until(call, "accepted").job_id
        eventually(lambda: scrape(server)["intarsia_checkpoints",] == 1, "a checkpoint")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        assert read_until(call, "resumed").step > 0
        figures = scrape(server)
        assert figures["intarsia_jobs_resumed_total", "checkpoint", KIND] == 1
        assert 0 <= figures["intarsia_checkpoint_age_seconds",] < LONG
        assert figures["intarsia_stored_bytes", "inputs"] > 0
        assert figures["intarsia_stored_bytes", "checkpoints"] > figures["intarsia_stored_bytes", "inputs"]
        assert figures["intarsia_storage_free_bytes",] > 0
        assert ("intarsia_jobs_recovered_total", KIND) not in figures
        server.process.kill()
    assert server.wait_for_end() == -signal.SIGKILL

    server = start_server(data_dir=tmp_path, **STARTS)
    server.wait_until_ready()
    with server.stub() as stub:
        watcher: Any = stub.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=LONG)
        assert read_until((response.event for response in watcher), "resumed").step > 0
        figures = scrape(server)
        assert figures["intarsia_jobs_recovered_total", KIND] == 1
        assert figures["intarsia_jobs_resumed_total", "checkpoint", KIND] == 1
        assert figures["intarsia_job_waiting_seconds_count",] == 0  # it had been taken before
        stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=LONG)
        assert failure_of(watcher).code is grpc.StatusCode.CANCELLED
        image = run_job(stub, tiny_request(steps=1)).image
    figures = scrape(server)
    assert figures["intarsia_jobs_total", KIND, "cancelled"] == 1
    assert figures["intarsia_checkpoints",] == figures["intarsia_stored_bytes", "checkpoints"] == 0
    assert ("intarsia_checkpoint_age_seconds",) not in figures
    assert figures["intarsia_stored_bytes", "results"] == len(image)
    assert figures["intarsia_stored_bytes", "records"] > 0


def test_job_that_waits_for_the_next_server_has_not_ended(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    """One whose input is damaged meanwhile has, at the next start."""
    server = start_server(data_dir=tmp_path, drain_seconds=0, **STARTS)
    server.wait_until_ready()
    request = endless_request()
    with server.stub() as stub:
        read_until(stub.Stylize(request, timeout=LONG), "progress")
        server.terminate()
    assert server.wait_for_end() == 0
    (stored,) = (tmp_path / "inputs").iterdir()
    stored.write_bytes(b"damaged")
    server = start_server(data_dir=tmp_path, **STARTS)
    server.wait_until_ready()
    figures = scrape(server)
    assert figures["intarsia_jobs_total", KIND, "failed"] == 1
    assert ("intarsia_jobs_recovered_total", KIND) not in figures
