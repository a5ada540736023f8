"""JSON logs: every line is an object, and tells which job it is about."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from intarsia_server.executors import checkpoint_format
from intarsia_server.executors.checkpoints import CheckpointWriter
from intarsia_server.logs import JsonFormatter, current_fields, log_fields
from intarsia_server.rpc.access import Access
from intarsia_server.rpc.server import Health, build_server
from intarsia_server.rpc.servicer import StyleTransferServicer
from intarsia_server.settings import Settings
from job_bench import Bench, on_bench
from server_jobs import failure_of, long_request, read_until, run_job, tiny_request
from server_process import LONG, ServerProcess, eventually


def test_lines_of_front_and_worker_name_the_job(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(log_format="json", log_level="DEBUG")
    server.wait_until_ready()
    request = tiny_request(steps=1)
    request.request_id = str(uuid.uuid4())
    with server.stub() as stub:
        (accepted,) = run_job(stub, request).of("accepted")
    server.terminate()
    assert server.wait_for_end() == 0
    lines = lines_of(server)
    assert all({"time", "level", "process", "logger", "message"} <= set(line) for line in lines)
    of_job = [line for line in lines if line.get("job_id") == accepted.job_id]
    assert {line["process"] for line in of_job} == {"server", "worker"}
    assert {line["request_id"] for line in of_job} == {request.request_id}
    assert [line for line in of_job if " accepted" in line["message"]]
    assert [line for line in of_job if " succeeded" in line["message"]]
    (last,) = [line for line in lines if line["message"] == "stopped"]
    assert "job_id" not in last


def lines_of(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines()]


def test_every_line_about_a_job_names_it(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """Whoever logs it: the call, the runner, the archive, a worker, the next server."""
    settings = {"log_format": "json", "log_level": "DEBUG", "data_dir": tmp_path, "checkpoint_seconds": 0.05}
    server = start_server(**settings, drain_seconds=1)
    server.wait_until_ready()
    ids = []
    with server.stub() as stub:
        for _ in range(3):
            request = long_request()
            request.request_id = str(uuid.uuid4())
            request.on_disconnect = pb.ON_DISCONNECT_DETACH
            ids.append(read_until(stub.Stylize(request, timeout=LONG), "accepted").job_id)
        stub.CancelJob(pb.CancelJobRequest(job_id=ids[2]), timeout=LONG)
        running: Any = stub.WatchJob(pb.WatchJobRequest(job_id=ids[0]), timeout=LONG)
        read_until((response.event for response in running), "progress")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        read_until((response.event for response in running), "resumed")
        server.terminate()
        assert failure_of(running).code is grpc.StatusCode.UNAVAILABLE
    assert server.wait_for_end() == 0
    lines = lines_of(server)
    (tmp_path / "checkpoints" / ids[0]).write_bytes(b"damaged")
    server = start_server(**settings)
    server.wait_until_ready()
    with server.stub() as stub:
        for job_id in ids[:2]:
            stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=LONG)
    eventually(lambda: server.log.count(" cancelled after") == 2, "both jobs to end")
    lines += lines_of(server)
    for line in lines:
        for job_id in ids:
            assert job_id not in line["message"] or line["job_id"] == job_id, line
    told = {job_id: " ".join(line["message"] for line in lines if line.get("job_id") == job_id) for job_id in ids}
    for job_id in ids:
        assert " accepted: " in told[job_id]
        assert " cancelled after " in told[job_id]
    for job_id in ids[:2]:
        assert "is left for the server's next start" in told[job_id]
        assert " queued again: " in told[job_id]
    assert "goes on with another worker" in told[ids[0]]
    assert "the checkpoint is not used" in told[ids[0]]


def test_checkpoint_that_cannot_be_written_names_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_lines: list[dict[str, Any]]
) -> None:
    """It is a thread that writes, and one that logs."""

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_format, "write", lambda *_: None)
    monkeypatch.setattr(checkpoint_format, "seal", full)
    with (
        log_fields({"job_id": "1"}),
        CheckpointWriter(tmp_path / "1", "", 0.001) as writer,
    ):
        while not logged_lines:
            writer.offer(Mock(), lambda: False)
            time.sleep(0.001)
    assert {line["job_id"] for line in logged_lines} == {"1"}
    assert "cannot be written" in logged_lines[0]["message"]


def test_defect_that_a_call_ends_with_names_the_job(logged_lines: list[dict[str, Any]]) -> None:
    """Its traceback is for the log alone."""

    async def scenario(bench: Bench) -> None:
        servicer = StyleTransferServicer(bench.manager, bench.executor, Mock(), Settings())
        server = build_server(servicer, Health(), Access(Settings()), max_message_bytes=2**20)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        bench.executor.failures[1] = RuntimeError("a secret")
        job = await bench.submit(1)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = StyleTransferServiceStub(channel).WatchJob(pb.WatchJobRequest(job_id=job.job_id), timeout=LONG)
            events = aiter(call)
            await anext(events)
            bench.executor.let_go(1)
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for _ in events:
                    pass
        await server.stop(None)
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
        assert "secret" not in str(raised.value.trailing_metadata())
        (line,) = [line for line in logged_lines if line["message"] == "call failed"]
        assert line["job_id"] == job.job_id
        assert "a secret" in line["traceback"]

    on_bench(scenario)


@pytest.fixture
def logged_lines() -> Iterator[list[dict[str, Any]]]:
    """What this process logs, as it comes."""
    lines: list[dict[str, Any]] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler = Kept()
    handler.setFormatter(JsonFormatter("server"))
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def logged() -> Callable[..., dict[str, Any]]:
    def log(message: str, *arguments: object, **options: Any) -> dict[str, Any]:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(JsonFormatter("server"))
        logger = logging.Logger("tests")
        logger.addHandler(handler)
        logger.error(message, *arguments, **options)
        (line,) = stream.getvalue().splitlines()
        result = json.loads(line)
        assert isinstance(result, dict)
        return result

    return log


def test_traceback_is_a_field(logged: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="what went wrong") as raised:
        int("what went wrong")
    line = logged("call failed", exc_info=raised.value)
    assert line["message"] == "call failed"
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("'what went wrong'")


def test_line_breaks_and_other_scripts(logged: Callable[..., dict[str, Any]]) -> None:
    assert logged("a\n%s", '"ü')["message"] == 'a\n"ü'


def test_fields_nest_and_end(logged: Callable[..., dict[str, Any]]) -> None:
    with log_fields({"job_id": "1", "owner": ""}):
        assert "owner" not in current_fields()
        with log_fields({"job_id": "2", "request_id": "3"}):
            line = logged("inner")
            assert (line["job_id"], line["request_id"]) == ("2", "3")
        assert logged("outer")["job_id"] == "1"
    assert "job_id" not in logged("outside")


def test_unknown_format(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(log_format="xml")
    assert server.wait_for_end() == 2
    assert "INTARSIA_LOG_FORMAT" in server.log
