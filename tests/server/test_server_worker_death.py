"""A worker process that is killed: another takes its place and its job, the server lives on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_jobs import assert_serves, failure_of, long_request, read_until, run_job, tiny_request
from server_process import LONG, NOT_SERVING, SERVING, ServerProcess, alive, eventually


def test_worker_killed_while_it_works(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_until_ready()
    (worker,) = server.workers()
    with server.channel() as channel, server.stub() as stub:
        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert next(health).status == SERVING
        job = stub.Stylize(tiny_request(steps=60), timeout=LONG)
        read_until(job, "progress")
        waiting = stub.Stylize(tiny_request(steps=1), timeout=LONG)
        read_until(waiting, "accepted")

        os.kill(worker, signal.SIGKILL)
        assert next(health).status == NOT_SERVING
        read_until(job, "resumed")
        assert read_until(job, "result").image.data
        read_until(waiting, "completed")
        assert next(health).status == SERVING
        health.cancel()
        assert_serves(stub)
    (another,) = server.workers()
    assert another != worker
    assert server.process.poll() is None

    # An idle worker's death is nobody's job's fault.
    os.kill(another, signal.SIGKILL)
    eventually(lambda: not alive(another), "the idle worker to die")
    with server.stub() as stub:
        assert run_job(stub, tiny_request(steps=1)).image

    server.terminate()
    assert server.wait_for_end() == 0


def test_workers_killed_while_they_start(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_until_ready()
    dead: list[int] = []
    with server.stub() as stub:
        job = stub.Stylize(tiny_request(steps=60), timeout=LONG)
        read_until(job, "progress")
        for _ in range(3):
            eventually(lambda: any(pid not in dead for pid in server.workers()), "another worker")
            (worker,) = [pid for pid in server.workers() if pid not in dead]
            os.kill(worker, signal.SIGKILL)
            dead.append(worker)
        assert server.health() == NOT_SERVING
        read_until(job, "resumed")
        assert read_until(job, "result").image.data
        read_until(job, "completed")
        assert_serves(stub)
    assert server.log.count("did not start again") == 2
    server.terminate()
    assert server.wait_for_end() == 0


def test_server_ends_while_it_has_no_worker(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_until_ready()
    (first,) = server.workers()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: any(pid != first for pid in server.workers()), "another worker")
    (second,) = [pid for pid in server.workers() if pid != first]
    os.kill(second, signal.SIGKILL)
    server.wait_for_log("did not start again")
    server.terminate()
    assert server.wait_for_end() == 0


def test_job_cancelled_while_its_worker_is_replaced(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_until_ready()
    with server.stub() as stub:
        call = stub.Stylize(long_request(), timeout=LONG)
        job_id = read_until(call, "accepted").job_id
        read_until(call, "progress")
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for_log(f"job {job_id} goes on with another worker")
        call.cancel()
        server.wait_for_log(f"job {job_id} cancelled")
        assert_serves(stub)


def test_job_that_takes_every_worker_along_fails(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_until_ready()
    with server.stub() as stub:
        call = stub.Stylize(long_request(), timeout=3 * LONG)
        for _ in range(3):
            read_until(call, "progress")
            os.kill(server.workers()[0], signal.SIGKILL)
        failure = failure_of(call)
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert "worker" in failure.message
        assert_serves(stub)
