"""What Prometheus gets from a real server, while jobs run, are refused, and lose their worker."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator

import grpc
import pytest
import torch
from google.rpc import code_pb2
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia_server.executors import worker
from intarsia_server.executors.base import ProgressEvent
from intarsia_server.executors.messages import Holding, WorkerMessage
from intarsia_server.telemetry.metrics import stage_label
from intarsia_server.telemetry.rate import Rate
from server_jobs import failure_of, long_request, read_until, refusal, run_job, tiny_request
from server_metrics import measured_server, moved, scrape
from server_process import LONG, ServerProcess, alive, eventually


@pytest.fixture(scope="module")
def measured() -> Iterator[ServerProcess]:
    with measured_server(queue_capacity=1) as server:
        yield server


def test_one_job_moves_what_it_should(measured: ServerProcess) -> None:
    ended = ("intarsia_rpcs_total", "OK", "Stylize")
    with measured.stub() as stub:
        run_job(stub, tiny_request(steps=1))  # the styles' targets are in the cache now
        eventually(lambda: ended in scrape(measured), "the first call's end")
        before = scrape(measured)
        request = tiny_request("sequential", steps=2, smoothing_steps=3)
        outcome = run_job(stub, request)
        eventually(lambda: ended in moved(before, scrape(measured)), "the second call's end")
    grown = moved(before, scrape(measured))
    assert grown["intarsia_jobs_total", "sequential", "succeeded"] == 1
    assert grown["intarsia_job_waiting_seconds_count",] == 1
    assert grown["intarsia_job_run_seconds_count", "sequential"] == 1
    (completed,) = outcome.of("completed")
    run_seconds = completed.run_time.ToTimedelta().total_seconds()
    assert grown["intarsia_job_run_seconds_sum", "sequential"] == pytest.approx(run_seconds, rel=0.2, abs=0.2)
    steps = {key[2]: value for key, value in grown.items() if key[0] == "intarsia_steps_total"}
    assert steps == {"vanilla": 2, "segment": 2 * 2, "smoothing": 3}
    assert sum(steps.values()) == len(outcome.of("progress"))
    assert grown["intarsia_stage_seconds_count", "segment"] == 2
    seconds = sum(stage.run_time.ToTimedelta().total_seconds() for stage in completed.stages)
    assert sum(value for key, value in grown.items() if key[0] == "intarsia_stage_seconds_sum") == pytest.approx(
        seconds, rel=1e-3
    )
    targets = sum(stage.targets for stage in completed.stages)
    hits = sum(stage.cached_targets for stage in completed.stages)
    assert hits > 0
    assert grown["intarsia_style_targets_total", "hit"] == hits
    assert grown.get(("intarsia_style_targets_total", "miss"), 0) == targets - hits
    assert grown["intarsia_rpcs_total", "OK", "Stylize"] == 1
    assert grown["intarsia_rpc_received_bytes_total", "Stylize"] == request.ByteSize()
    assert grown["intarsia_rpc_sent_bytes_total", "Stylize"] == sum(one.ByteSize() for one in outcome.responses)


def test_queue_refusals_and_calls(measured: ServerProcess) -> None:
    before = scrape(measured)
    assert (before["intarsia_queued_jobs",], before["intarsia_running_jobs",]) == (0, 0)
    assert before["intarsia_queued_memory_bytes",] == 0
    assert before["intarsia_queue_capacity",] == 1
    with measured.stub() as stub:
        running = stub.Stylize(long_request(), timeout=LONG)
        read_until(running, "progress")
        waiting = stub.Stylize(long_request(), timeout=LONG)
        read_until(waiting, "accepted")
        during = scrape(measured)
        assert (during["intarsia_queued_jobs",], during["intarsia_running_jobs",]) == (1, 1)
        assert during["intarsia_queued_memory_bytes",] > 2**20
        eventually(lambda: scrape(measured)["intarsia_steps_per_second",] > 0, "steps to be seen")
        assert refusal(stub, tiny_request()).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        waiting.cancel()
        running.cancel()
        eventually(lambda: scrape(measured)["intarsia_running_jobs",] == 0, "the worker to be free")
        assert refusal(stub, pb.StylizeRequest()).code is grpc.StatusCode.INVALID_ARGUMENT
        stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LONG)
        cancelled = ("intarsia_rpcs_total", "CANCELLED", "Stylize")
        eventually(lambda: moved(before, scrape(measured)).get(cancelled) == 2, "both calls to end")
    grown = moved(before, scrape(measured))
    assert grown["intarsia_refusals_total", "RESOURCE_EXHAUSTED", "queue_full"] == 1
    assert grown["intarsia_rpcs_total", "RESOURCE_EXHAUSTED", "Stylize"] == 1
    assert grown["intarsia_rpcs_total", "INVALID_ARGUMENT", "Stylize"] == 1
    assert grown["intarsia_rpcs_total", "OK", "GetServerInfo"] == 1
    assert grown["intarsia_jobs_total", "masked-gram", "cancelled"] == 2
    assert ("intarsia_job_run_seconds_count", "masked-gram") not in grown


def test_deadline_is_not_a_cancel(measured: ServerProcess) -> None:
    before = scrape(measured)
    with measured.stub() as stub:
        call = stub.Stylize(long_request(), timeout=2)
        assert failure_of(call).code is grpc.StatusCode.DEADLINE_EXCEEDED
    late = ("intarsia_rpcs_total", "DEADLINE_EXCEEDED", "Stylize")
    eventually(lambda: moved(before, scrape(measured)).get(late) == 1, "the call's end")
    assert ("intarsia_rpcs_total", "CANCELLED", "Stylize") not in moved(before, scrape(measured))


def test_methods_that_a_client_makes_up_are_not_counted(measured: ServerProcess) -> None:
    with measured.channel() as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/intarsia.v1.StyleTransferService/MadeUp")(b"", timeout=LONG)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    labels = {key[2] for key in scrape(measured) if key[0] == "intarsia_rpcs_total"}
    assert labels <= {method.name for method in pb.DESCRIPTOR.services_by_name["StyleTransferService"].methods}
    codes = {key[1] for key in scrape(measured) if key[0] == "intarsia_rpcs_total"}
    assert codes <= set(code_pb2.Code.keys())


def test_processes_and_build(measured: ServerProcess) -> None:
    figures = scrape(measured)
    assert figures["process_resident_memory_bytes",] > 2**24
    assert figures["intarsia_worker_resident_memory_bytes", "cpu", "0"] > 2**27
    assert figures["intarsia_worker_up", "cpu", "0"] == 1
    assert figures["intarsia_event_loop_lag_seconds_count",] > 0
    (build,) = [key for key in figures if key[0] == "intarsia_build_info"]
    assert "0.1.0" in build


def test_worker_that_is_replaced(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(metrics_address="127.0.0.1:0")
    server.wait_until_ready()
    assert scrape(server)["intarsia_worker_restarts_total", "cpu", "0"] == 0
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not alive(worker), "the worker to die")
    eventually(lambda: scrape(server)["intarsia_worker_restarts_total", "cpu", "0"] == 1, "another to be counted")
    eventually(lambda: scrape(server)["intarsia_worker_up", "cpu", "0"] == 1, "another to be there")


def test_address_that_is_taken(measured: ServerProcess, start_server: Callable[..., ServerProcess]) -> None:
    (address,) = re.findall(r"metrics on http://([^/]+)/", measured.log)
    second = start_server(metrics_address=address)
    assert second.wait_for_end() == 1
    assert f"cannot listen on {address}" in second.log
    assert "Traceback" not in second.log


def test_no_metrics_without_an_address(server: ServerProcess) -> None:
    assert "metrics on" not in server.log


@pytest.mark.parametrize("address", ["localhost", "9090", ":", "host:port"])
def test_address_that_is_none(address: str, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(metrics_address=address)
    assert server.wait_for_end() == 2
    assert "INTARSIA_METRICS_ADDRESS" in server.log


def test_stage_labels_have_no_numbers() -> None:
    assert [stage_label(name) for name in ("segment 3", "segment 17", "masked gram")] == [
        "segment",
        "segment",
        "masked gram",
    ]


def test_rate_forgets() -> None:
    now = 100.0
    rate = Rate(lambda: now)
    for _ in range(30):
        rate.add()
    assert rate.per_second() == 0  # the second is not over
    now = 101.0
    assert rate.per_second() == 3
    now = 105.5
    for _ in range(20):
        rate.add()
    now = 110.0
    assert rate.per_second() == 5
    now = 111.0
    assert rate.per_second() == 2
    now = 200.0
    assert rate.per_second() == 0


def test_gpu_memory_is_told_early_in_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a stage is taken up again, too, though its steps are not counted from 1 there."""
    monkeypatch.setattr(worker, "memory_held", lambda _: 7)
    idle = object.__new__(worker.Worker)
    idle._device = torch.device("cuda")
    sent: list[WorkerMessage] = []
    tell = idle._telling_memory(sent.append)
    for stage, first, steps in (("segment 1", 40, 12), ("segment 2", 1, 9)):
        for step in range(first, first + steps):
            tell(ProgressEvent(stage, step, 100, (), 1.0, 0.5, None))
    before = [sent[index + 1] for index, message in enumerate(sent) if message == Holding(7)]
    told = [(event.stage, event.step) for event in before if isinstance(event, ProgressEvent)]
    assert told == [("segment 1", 40), ("segment 1", 49), ("segment 2", 1)]
    idle._device = torch.device("cpu")
    assert idle._telling_memory(tell) is tell
