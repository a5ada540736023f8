"""Calls that end before their jobs: the worker is free again within a step, and the log says so."""

from __future__ import annotations

import uuid

import grpc
import pytest
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import assert_serves, failure_of, long_request, read_until, run_job, tiny_request
from server_process import LONG, ServerProcess


def test_cancel_of_a_running_job_frees_the_worker(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    call = stub.Stylize(long_request(), timeout=LONG)
    job_id = read_until(call, "accepted").job_id
    read_until(call, "progress")
    call.cancel()
    assert_serves(stub)
    server.wait_for_log(f"job {job_id} cancelled")


def test_cancel_by_a_reader_that_has_fallen_behind(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    request = long_request()
    request.preview_interval = 1
    request.output.size = 128
    call = stub.Stylize(request, timeout=LONG)
    job_id = read_until(call, "accepted").job_id
    # By the second job's end the first one's events are more than the connection holds for a reader who is away.
    other = stub.Stylize(tiny_request(), timeout=LONG)
    read_until(call, "preview")
    call.cancel()
    server.wait_for_log(f"job {job_id} cancelled")
    read_until(other, "completed")


def test_cancel_of_a_queued_job(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    running = stub.Stylize(long_request(), timeout=LONG)
    read_until(running, "progress")
    queued = stub.Stylize(tiny_request(), timeout=LONG)
    accepted = read_until(queued, "accepted")
    assert accepted.queue_position == 1
    queued.cancel()
    server.wait_for_log(f"job {accepted.job_id} cancelled")
    read_until(running, "progress")  # the other one goes on
    running.cancel()
    assert_serves(stub)


def test_closed_channel_cancels_the_job(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    with server.stub() as other:
        call = other.Stylize(long_request(), timeout=LONG)
        job_id = read_until(call, "accepted").job_id
        read_until(call, "progress")
    server.wait_for_log(f"job {job_id} cancelled")
    assert_serves(stub)


def test_deadline_ends_the_job(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    request = long_request()
    # Nobody can foresee its end, or it would be refused; steps of that size are slow enough not to reach it.
    request.optimization.until, request.output.size = pb.UNTIL_CONVERGED, 1000
    call = stub.Stylize(request, timeout=3)
    job_id = read_until(call, "accepted").job_id
    assert failure_of(call).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert_serves(stub)
    server.wait_for_log(f"job {job_id} cancelled")


def test_many_cancels_in_a_row(stub: StyleTransferServiceStub) -> None:
    for kind in ("accepted", "stage", "progress") * 5:
        call = stub.Stylize(long_request(), timeout=LONG)
        read_until(call, kind)
        call.cancel()
    assert_serves(stub)


def test_unread_call_that_is_cancelled_at_once(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    for _ in range(10):
        stub.Stylize(long_request(), timeout=LONG).cancel()
    outcome = run_job(stub, tiny_request(steps=1))
    assert outcome.kinds[0] == "accepted"


@pytest.mark.parametrize("spelling", [str.upper, lambda text: text.replace("-", "")], ids=["upper case", "no dashes"])
def test_request_id_belongs_to_its_job(stub: StyleTransferServiceStub, spelling: object) -> None:
    assert callable(spelling)
    request = long_request()
    request.request_id = str(uuid.uuid4())
    first = stub.Stylize(request, timeout=LONG)
    assert read_until(first, "accepted").request_id == request.request_id
    another = tiny_request(steps=1)
    another.request_id = spelling(request.request_id)
    assert failure_of(stub.Stylize(another, timeout=LONG)).code is grpc.StatusCode.ALREADY_EXISTS
    first.cancel()
    assert_serves(stub)
    assert failure_of(stub.Stylize(another, timeout=LONG)).code is grpc.StatusCode.ALREADY_EXISTS
    request.request_id = another.request_id
    assert failure_of(stub.Stylize(request, timeout=LONG)).code is grpc.StatusCode.CANCELLED
