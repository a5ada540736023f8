"""Estimates: both clients and `intarsia estimate` against a scripted server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import grpc
import pytest
from command_line import STYLES, cli
from fake_server import FakeServer, abort, bad_request, good_estimate
from google.protobuf.duration_pb2 import Duration
from intarsia import AsyncClient, Client, IntarsiaError, RequestError
from intarsia.v1 import style_transfer_pb2 as pb
from typer.testing import Result

LOOKS = {0: b"style", 1: "keep"}


def estimate(fake: FakeServer, *arguments: str) -> Result:
    return cli("estimate", "content.png", "--labels", "labels.png", *STYLES, "--server", fake.address, *arguments)


def refuse(field: str) -> object:
    def guess(request: pb.EstimateRequest, context: grpc.ServicerContext) -> pb.EstimateResponse:
        abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"{field}: bad", bad_request((field, "is bad")))
        raise AssertionError

    return guess


def test_client(server: FakeServer) -> None:
    with Client(server.address) as client:
        found = client.estimate(b"content", labels=b"labels", styles=LOOKS, method="gatys", steps=7, timeout=5)
    assert found.run_time.seconds == 6150
    job = server.estimates[0].job
    assert (job.content.data, job.label_map.data, job.gatys.steps) == (b"content", b"labels", 7)
    assert (job.segments[0].style.data, job.segments[1].keep) == (b"style", True)
    assert server.deadlines[0] is not None
    assert server.deadlines[0] <= 5.5  # gRPC rounds it up on the wire
    assert not server.requests


def test_async_client(server: FakeServer) -> None:
    async def go() -> pb.EstimateResponse:
        async with AsyncClient(server.address) as client:
            return await client.estimate(b"content", labels=b"labels", styles=LOOKS)

    assert asyncio.run(go()).memory_bytes == 512 * 2**20


def test_errors_name_their_fields(server: FakeServer) -> None:
    server.guess = refuse("job.content.data")  # type: ignore[assignment]
    with Client(server.address) as client, pytest.raises(IntarsiaError) as raised:
        client.estimate(b"", labels=b"labels", styles=LOOKS)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.violations == (("job.content.data", "is bad"),)
    with Client(server.address) as client, pytest.raises(RequestError, match="unknown method"):
        client.estimate(b"", labels=b"labels", styles=LOOKS, method="none")


def test_table(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = estimate(server)
    assert done.exit_code == 0, done.stderr
    header, *lines = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    assert header == ["stage", "time"]
    assert {name: rest for name, *rest in lines} == {
        "preparation": ["0.2 s"],
        "coarse": ["2 min", "10 steps"],
        "blend": ["1 h 40 min", "50 steps"],
        "in all": ["1 h 42 min", "60x40 in bf16 on cuda:0"],
        "memory": ["512 MiB", "beside 700 MiB that the worker holds, of 80 GiB"],
    }


def test_tiles_are_shown(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")

    def tiled(request: pb.EstimateRequest, context: grpc.ServicerContext) -> pb.EstimateResponse:
        assert request.job.optimization.memory_bytes == 4 * 2**30
        response = good_estimate(request, context)
        response.tiles = 12
        return response

    server.guess = tiled
    done = estimate(server, "--memory", "4GiB")
    assert "of 80 GiB, in 12 tiles" in done.stdout


def test_an_upper_bound_says_so(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def bound(request: pb.EstimateRequest, context: grpc.ServicerContext) -> pb.EstimateResponse:
        response = good_estimate(request, context)
        response.at_most = True
        return response

    server.guess = bound
    done = estimate(server, "--until", "converged")
    assert re.search(r"coarse\s+2 min\s+at most 10 steps", done.stdout)
    assert re.search(r"at most\s+1 h 42 min\s+60x40", done.stdout)
    assert "in all" not in done.stdout


@pytest.mark.parametrize(("wait", "shown"), [(Duration(seconds=90), "90.0 s"), (None, "?")])
def test_a_queue_is_shown(server: FakeServer, pictures: Path, wait: Duration | None, shown: str) -> None:
    def busy(request: pb.EstimateRequest, context: grpc.ServicerContext) -> pb.EstimateResponse:
        response = good_estimate(request, context)
        response.queue_position = 3
        response.ClearField("queued_time")
        if wait is not None:
            response.queued_time.CopyFrom(wait)
        return response

    server.guess = busy
    done = estimate(server)
    assert re.search(rf"before it\s+{re.escape(shown)}\s+3 jobs in the queue", done.stdout)


def test_every_option_reaches_the_request(server: FakeServer, pictures: Path) -> None:
    options = ("--method", "sequential", "--paper", "--size", "300", "--steps", "9", "--precision", "fp32")
    done = estimate(server, *options, "--encoder", "mine", "--set", "smoothing_steps=4", "--set", "0.style_scale=2")
    assert done.exit_code == 0, done.stderr
    job = server.estimates[0].job
    assert (job.sequential.steps, job.sequential.smoothing_steps, job.paper) == (9, 4, True)
    assert (job.output.size, job.precision, job.encoder) == (300, pb.PRECISION_FP32, "mine")
    assert job.segments[0].style_scale == 2


def test_json(server: FakeServer, pictures: Path) -> None:
    assert estimate(server, "--json", "estimate.json").exit_code == 0
    written = json.loads((pictures / "estimate.json").read_text())
    assert (written["content"], written["runTime"], written["memoryBytes"]) == ("content.png", "6150s", 512 * 2**20)
    assert written["stages"][0] == {"stage": "coarse", "steps": 10, "runTime": "149.750s"}
    assert written["device"]["name"] == "cuda:0"


def test_json_to_stdout_is_alone_there(server: FakeServer, pictures: Path) -> None:
    done = estimate(server, "--json", "-")
    assert json.loads(done.stdout)["width"] == 60
    assert "in all" in done.stderr


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("job.segments[0].style.data", "--style 0=brush.png"),
        ("job.output.size", "--size"),
        ("job.label_map.data", "--labels"),
        ("job.blended.feather", "--set feather"),
        ("job.content.data", "CONTENT"),
    ],
)
def test_refusals_name_what_was_typed(server: FakeServer, pictures: Path, field: str, typed: str) -> None:
    server.guess = refuse(field)  # type: ignore[assignment]
    done = estimate(server)
    assert done.exit_code == 2
    assert done.stderr.endswith(f"intarsia: {typed} ({field}): is bad\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "estimate.txt"), "must end with .json"),
        (("--style", "0=glass.png"), "--style 0 is given twice"),
        (("--set", "nonsense=1"), "nonsense"),
        (("--auto", "fcn-resnet101"), "give exactly one of"),
    ],
)
def test_wrong_usage(server: FakeServer, pictures: Path, arguments: tuple[str, ...], message: str) -> None:
    done = estimate(server, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not server.estimates
