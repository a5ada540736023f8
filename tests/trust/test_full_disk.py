"""A server that starts while nothing can be stored: it serves what there is, and everything once there is room.

Without a file system to fill, the room is a limit on how large a file may become.
"""

from __future__ import annotations

import resource
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.estimate import workers_of
from bench.trust.samples import stylize_request
from bench.trust.server import Server, running_server

PATIENCE = 60.0
NO_ROOM = 4096
"""Bytes of the largest file: less than a request, and than what the database needs for a change."""


@contextmanager
def no_room() -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (NO_ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_room(server: Server) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for pid in (server.process.pid, *workers_of(server.process.pid)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def job(steps: int, on_disconnect: pb.OnDisconnect.ValueType = pb.ON_DISCONNECT_CANCEL) -> pb.StylizeRequest:
    request = stylize_request()
    request.request_id = str(uuid.uuid4())
    request.on_disconnect = on_disconnect
    request.masked_gram.steps = steps
    return request


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    code: grpc.StatusCode = raised.value.code()
    return code


def downloaded(stub: StyleTransferServiceStub, job_id: str) -> bytes:
    return b"".join(response.data for response in stub.GetResult(pb.GetResultRequest(job_id=job_id), timeout=PATIENCE))


def test_start_without_room(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data_dir=data, threads=1) as server, grpc.insecure_channel(server.address) as channel:
        server.wait_until_ready()
        stub = StyleTransferServiceStub(channel)
        done = next(stub.Stylize(job(1, pb.ON_DISCONNECT_DETACH), timeout=PATIENCE)).accepted.job_id
        *_, last = stub.WatchJob(pb.WatchJobRequest(job_id=done), timeout=PATIENCE)
        assert last.event.HasField("completed")
        image = downloaded(stub, done)
        left = next(stub.Stylize(job(10_000, pb.ON_DISCONNECT_DETACH), timeout=PATIENCE)).accepted.job_id
        server.process.kill()
        server.process.wait()

    with ExitStack() as stack:
        with no_room():
            server = stack.enter_context(running_server(data_dir=data, threads=1))
        with grpc.insecure_channel(server.address) as channel:
            server.wait_until_ready()
            stub = StyleTransferServiceStub(channel)
            assert downloaded(stub, done) == image
            assert {found.job_id for found in stub.ListJobs(pb.ListJobsRequest()).jobs} == {done, left}
            assert status_of(lambda: list(stub.Stylize(job(1), timeout=PATIENCE))) is grpc.StatusCode.RESOURCE_EXHAUSTED
            watch = pb.WatchJobRequest(job_id=left)
            assert status_of(lambda: list(stub.WatchJob(watch, timeout=PATIENCE))) is grpc.StatusCode.UNAVAILABLE
            make_room(server)
            deadline = time.monotonic() + PATIENCE
            while stub.CancelJob(pb.CancelJobRequest(job_id=left)).job.state != pb.JOB_STATE_CANCELLED:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert list(stub.Stylize(job(1), timeout=PATIENCE))[-1].HasField("completed")
        assert "Traceback" not in server.log_file.read_text()


def test_first_start_without_room_says_so_in_one_line(tmp_path: Path) -> None:
    with no_room(), running_server(data_dir=tmp_path / "data", threads=1) as server:
        assert server.process.wait(PATIENCE) == 1
        (line,) = server.log_file.read_text().splitlines()
    assert "cannot start: the jobs' database cannot be used" in line
