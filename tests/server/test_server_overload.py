"""What a real server answers that has too much to do: at once, with a type and a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import intarsia
import pytest
from google.rpc import error_details_pb2
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import Failure, assert_serves, failure, long_request, read_until, refusal, tiny_request
from server_process import LONG, ServerProcess, eventually

Start = Callable[..., ServerProcess]


def _hint(error: Any) -> tuple[Failure, int]:
    """A refusal, and the milliseconds that it tells gRPC's clients to wait."""
    return failure(error), int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])


def test_the_hint_is_told_in_both_ways(narrow: StyleTransferServiceStub) -> None:
    calls = [narrow.Stylize(long_request(), timeout=LONG) for _ in range(3)]
    for call in calls:
        read_until(call, "accepted")
    with pytest.raises(grpc.RpcError) as raised:
        next(narrow.Stylize(tiny_request(), timeout=LONG))
    found, milliseconds = _hint(raised.value)
    (retry,) = found.details
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert milliseconds == pytest.approx(retry.retry_delay.ToMilliseconds(), abs=1)
    assert milliseconds > 0
    for call in reversed(calls):
        call.cancel()
    eventually(lambda: narrow.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 0, "the queue to be empty")
    assert_serves(narrow)


def test_quota_and_memory(start_server: Start) -> None:
    server = start_server(client_jobs=3, queue_mib=75)
    server.wait_until_ready()
    with server.stub() as stub:
        calls: list[Any] = [stub.Stylize(long_request(), timeout=LONG) for _ in range(2)]
        for call in calls:
            read_until(call, "accepted")
        # Each of them is thought to take some 50 MB.
        found = refusal(stub, long_request())
        assert (found.code, "memory" in found.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        job = tiny_request()
        # How much memory this takes is not known.
        calls.append(stub.Segment.future(pb.SegmentRequest(content=job.content, label_map=job.label_map)))
        eventually(lambda: stub.GetServerInfo(pb.GetServerInfoRequest()).queued_jobs == 2, "the job to be queued")
        found = refusal(stub, tiny_request())
        assert (found.code, "3 jobs" in found.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        for call in reversed(calls):
            call.cancel()
        assert_serves(stub)


def test_a_deadline_that_cannot_be_met_is_refused_at_once(
    server: ServerProcess, stub: StyleTransferServiceStub
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        next(stub.Stylize(long_request(), timeout=20))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the job would take" in raised.value.details()
    running = stub.Stylize(long_request(), timeout=LONG)
    read_until(running, "progress")
    with pytest.raises(grpc.RpcError) as raised:
        next(stub.Stylize(tiny_request(), timeout=20))
    assert "in the queue" in raised.value.details()
    detached = long_request()
    detached.on_disconnect = pb.ON_DISCONNECT_DETACH
    accepted = read_until(stub.Stylize(detached, timeout=20), "accepted")
    stub.CancelJob(pb.CancelJobRequest(job_id=accepted.job_id), timeout=LONG)
    running.cancel()
    assert_serves(stub)


@pytest.mark.parametrize(
    ("settings", "message"), [({"queue_capacity": 0}, "queue is full"), ({"client_jobs": 1}, "1 jobs")], ids=str
)
def test_a_client_waits_as_it_is_told(start_server: Start, settings: dict[str, int], message: str) -> None:
    server = start_server(log_level="DEBUG", **settings)
    server.wait_until_ready()
    with server.stub() as stub, intarsia.Client(server.address) as client:
        first = stub.Stylize(tiny_request(steps=200), timeout=LONG)
        read_until(first, "progress")
        with pytest.raises(intarsia.IntarsiaError, match=message) as raised:
            client.start(tiny_request()).result()
        assert raised.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert raised.value.retry_after_seconds is not None
        assert raised.value.retry_after_seconds > 0
        assert client.start(tiny_request(), wait_when_busy=LONG).result().image
    assert server.log.count("refused a job") >= 2


def test_a_client_does_not_insist_on_a_deadline_that_cannot_be_met(start_server: Start) -> None:
    server = start_server(log_level="DEBUG")
    server.wait_until_ready()
    with intarsia.Client(server.address) as client, pytest.raises(intarsia.IntarsiaError, match="would take") as raised:
        client.start(long_request(), timeout=20, wait_when_busy=LONG).result()
    assert raised.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.log.count("refused a job") == 1
