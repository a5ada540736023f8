"""JSON logs: every line is an object, and tells which job it is about."""

from __future__ import annotations

import io
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from intarsia_server.logs import JsonFormatter, current_fields, log_fields
from server_jobs import run_job, tiny_request
from server_process import ServerProcess


def test_lines_of_front_and_worker_name_the_job(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(log_format="json", log_level="DEBUG")
    server.wait_until_ready()
    request = tiny_request(steps=1)
    request.request_id = str(uuid.uuid4())
    with server.stub() as stub:
        (accepted,) = run_job(stub, request).of("accepted")
    server.terminate()
    assert server.wait_for_end() == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in server.log.splitlines()]
    assert all({"time", "level", "process", "logger", "message"} <= set(line) for line in lines)
    of_job = [line for line in lines if line.get("job_id") == accepted.job_id]
    assert {line["process"] for line in of_job} == {"server", "worker"}
    assert {line["request_id"] for line in of_job} == {request.request_id}
    assert [line for line in of_job if " accepted" in line["message"]]
    assert [line for line in of_job if " succeeded" in line["message"]]
    (last,) = [line for line in lines if line["message"] == "stopped"]
    assert "job_id" not in last


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
