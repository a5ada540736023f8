"""The RPC Estimate on a real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from PIL import Image
from server_jobs import Failure, failure, long_request, read_until, run_job, tiny_request
from server_process import LONG, ServerProcess, eventually
from test_server_refusals import CASES, UNKNOWN_FIELD

MEMORY_CASE = (300, 200)


def estimate(stub: StyleTransferServiceStub, job: pb.StylizeRequest) -> pb.EstimateResponse:
    return stub.Estimate(pb.EstimateRequest(job=job), timeout=LONG)


def refused(stub: StyleTransferServiceStub, request: pb.EstimateRequest, timeout: float = LONG) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        stub.Estimate(request, timeout=timeout)
    return failure(raised.value)


def seconds(duration: Any) -> float:
    return float(duration.ToTimedelta().total_seconds())


def test_an_estimate(stub: StyleTransferServiceStub) -> None:
    found = estimate(stub, tiny_request("sequential_smooth"))
    assert (found.width, found.height) == pictures.CONTENT_SIZE
    assert [(stage.stage, stage.steps) for stage in found.stages] == [
        ("vanilla", 2),
        ("segment 1", 2),
        ("segment 2", 2),
        ("smoothing", 3),
        ("border smoothing", 2),
    ]
    parts = [found.preparation, *(stage.run_time for stage in found.stages)]
    assert all(seconds(part) > 0 for part in parts)
    assert seconds(found.run_time) == pytest.approx(sum(map(seconds, parts)), abs=1e-4)
    assert found.memory_bytes > 0
    assert found.idle_memory_bytes > 100e6
    assert (found.queue_position, found.HasField("queued_time"), seconds(found.queued_time)) == (0, True, 0)
    info = stub.GetServerInfo(pb.GetServerInfoRequest())
    info.devices[0].ClearField("used_memory_bytes")  # an estimate is of no moment
    assert found.device == info.devices[0]
    assert found.precision == info.default_precision


def test_within_a_memory(stub: StyleTransferServiceStub) -> None:
    """No picture of a test is too large for what any machine has; one of 300 megabytes is for next to nothing."""
    job = tiny_request("masked_gram")
    job.output.size = 600
    whole = estimate(stub, job)
    job.optimization.memory_bytes = 2**28
    tiled = estimate(stub, job)
    assert (whole.tiles, tiled.tiles > 1) == (1, True)
    assert tiled.memory_bytes < whole.memory_bytes
    assert seconds(tiled.run_time) > seconds(whole.run_time)


def test_its_stages_are_those_of_the_job(stub: StyleTransferServiceStub) -> None:
    for method in ("gatys", "masked_gram", "sequential", "sequential_smooth", "single_shot", "blended"):
        job = tiny_request(method)
        job.output.size = 200
        estimated = [(stage.stage, stage.steps) for stage in estimate(stub, job).stages]
        run = run_job(stub, job).of("completed")[0].stages
        assert estimated == [(stage.stage, stage.steps) for stage in run]


def test_knobs_count(stub: StyleTransferServiceStub) -> None:
    plain = estimate(stub, tiny_request(steps=10))
    twice = estimate(stub, tiny_request(steps=20))
    assert seconds(twice.stages[-1].run_time) > 1.5 * seconds(plain.stages[-1].run_time)
    large = tiny_request(steps=10)
    large.output.size = 384
    assert estimate(stub, large).memory_bytes > 4 * plain.memory_bytes
    for precision in (pb.PRECISION_FP32, pb.PRECISION_BF16):
        job = tiny_request()
        job.precision = precision
        assert estimate(stub, job).precision == precision


def test_a_window_takes_its_share(stub: StyleTransferServiceStub) -> None:
    """Segments in opposite corners: a quarter of the picture and their margins, and not the whole of it."""
    job = tiny_request("sequential")
    job.output.size = 600
    job.sequential.steps, job.sequential.coarse_steps = 10, 0
    labels = np.zeros((400, 600), dtype=np.uint8)
    labels[:60, :60], labels[-60:, -60:] = 1, 2
    job.content.data, job.label_map.data = pictures.content((600, 400)), pictures.encoded(Image.fromarray(labels))
    whole, *parts, _ = (seconds(stage.run_time) for stage in estimate(stub, job).stages)
    assert len(parts) == 2
    assert all(part < whole / 2 for part in parts)


def test_until_converged_is_at_most_that(stub: StyleTransferServiceStub) -> None:
    job = tiny_request(steps=10)
    plain = estimate(stub, job)
    job.optimization.until = pb.UNTIL_CONVERGED
    converged = estimate(stub, job)
    assert (plain.at_most, converged.at_most) == (False, True)
    assert [stage.steps for stage in converged.stages] == [stage.steps for stage in plain.stages]


def test_it_learns_from_jobs(stub: StyleTransferServiceStub) -> None:
    before = estimate(stub, tiny_request(steps=5))
    run_job(stub, tiny_request(steps=5))
    assert estimate(stub, tiny_request(steps=5)).run_time != before.run_time


def test_nothing_is_run(stub: StyleTransferServiceStub, server: ServerProcess) -> None:
    accepted = server.log.count("accepted")
    estimate(stub, tiny_request())
    assert server.log.count("accepted") == accepted


def test_a_server_that_has_not_started_is_waited_for(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_for_log("listening on")
    with server.stub() as stub:
        assert not stub.GetServerInfo(pb.GetServerInfoRequest()).ready
        early = refused(stub, pb.EstimateRequest(job=tiny_request()), timeout=0.2)
        assert early.code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert estimate(stub, tiny_request()).stages


@pytest.mark.parametrize("name", CASES)
def test_it_refuses_what_stylize_refuses(stub: StyleTransferServiceStub, name: str) -> None:
    edit, field = CASES[name]
    request = pb.EstimateRequest(job=tiny_request())
    edit(request.job)
    found = refused(stub, request)
    assert found.code is grpc.StatusCode.INVALID_ARGUMENT, found.message
    assert found.field == ("job" if field == "request" else f"job.{field}")


PICTURE_CASES: dict[str, tuple[Callable[[Any], object], str]] = {
    "content is no picture": (lambda job: setattr(job.content, "data", b"text"), "job.content.data"),
    "style is a bomb": (
        lambda job: setattr(job.segments[1].style, "data", pictures.bomb(20_000)),
        "job.segments[1].style.data",
    ),
    "label map of another size": (
        lambda job: setattr(job.label_map, "data", pictures.label_map((60, 40))),
        "job.label_map.data",
    ),
}


@pytest.mark.parametrize(("edit", "field"), PICTURE_CASES.values(), ids=PICTURE_CASES)
def test_bad_pictures_are_named(stub: StyleTransferServiceStub, edit: Callable[[Any], object], field: str) -> None:
    request = pb.EstimateRequest(job=tiny_request())
    edit(request.job)
    found = refused(stub, request)
    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_a_request_without_a_job(stub: StyleTransferServiceStub) -> None:
    assert refused(stub, pb.EstimateRequest()).field == "job"
    newer = pb.EstimateRequest(job=tiny_request())
    newer.MergeFromString(UNKNOWN_FIELD)
    assert refused(stub, newer).field == "request"


def test_the_queue_before_it(narrow: StyleTransferServiceStub) -> None:
    """Answered while the worker is busy and the queue is full; a request id that is in use is no matter."""
    job = long_request()
    job.request_id = "7d444840-9dc0-11d1-b245-5ffdce74fad2"
    running = narrow.Stylize(job)
    try:
        read_until(running, "progress")
        one = estimate(narrow, job)
        assert one.queue_position == 1
        assert 0 < seconds(one.queued_time) <= seconds(one.run_time)
        waiting = [narrow.Stylize(tiny_request(steps=10)) for _ in range(2)]
        eventually(lambda: narrow.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 2, "the queue to be full")
        three = estimate(narrow, job)
        assert three.queue_position == 3
        for call in waiting:
            call.cancel()
        eventually(lambda: narrow.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 0, "the queue to be empty")
        segment = narrow.Segment.future(pb.SegmentRequest(content=job.content, label_map=job.label_map))
        eventually(lambda: narrow.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 1, "the job to be queued")
        unknown = estimate(narrow, job)
        assert (unknown.queue_position, unknown.HasField("queued_time")) == (2, False)
        segment.cancel()
    finally:
        running.cancel()
    eventually(lambda: narrow.GetServerInfo(pb.GetServerInfoRequest()).running_jobs == 0, "the worker to be free")


def test_memory_is_within_a_quarter(start_server: Callable[..., ServerProcess]) -> None:
    """Beside the least that three workers took: what an allocator loses to fragments under load is in no estimate."""
    job = tiny_request(steps=4)
    job.content.data, job.label_map.data = pictures.content(MEMORY_CASE), pictures.label_map(MEMORY_CASE)
    measured = []
    for _ in range(3):
        server = start_server()
        server.wait_until_ready()
        (worker,) = server.workers()
        with server.stub() as stub:
            found = estimate(stub, job)
            Path(f"/proc/{worker}/clear_refs").write_text("5")  # the largest resident set counts from here
            run_job(stub, job)
            (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
        measured.append(1024 * int(kilobytes) - found.idle_memory_bytes)
    assert found.memory_bytes == pytest.approx(min(measured), rel=0.25)
