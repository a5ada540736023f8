"""The bounded queue of a server with room for two waiting jobs, and heartbeats of those that wait."""

from __future__ import annotations

import itertools

import grpc
from google.rpc import error_details_pb2
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import assert_serves, long_request, read_until, refusal, tiny_request
from server_process import LONG, ServerProcess


def test_queue_is_bounded_and_moves_up(narrow: StyleTransferServiceStub) -> None:
    running = narrow.Stylize(long_request(), timeout=LONG)
    read_until(running, "progress")
    first = narrow.Stylize(tiny_request(), timeout=LONG)
    assert read_until(first, "accepted").queue_position == 1
    second = narrow.Stylize(tiny_request(), timeout=LONG)
    assert read_until(second, "accepted").queue_position == 2

    failure = refusal(narrow, tiny_request())
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    (retry,) = failure.details
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() > 0

    first.cancel()
    assert read_until(second, "queued").queue_position == 1
    running.cancel()
    rest = [response.WhichOneof("event") for response in second]
    kinds = [kind for kind in rest if kind not in {"heartbeat", "result_chunk"}]
    assert kinds == ["stage", "progress", "progress", "progress", "result", "completed"]
    assert_serves(narrow)


def test_bad_request_is_refused_as_such_by_a_full_queue(narrow: StyleTransferServiceStub) -> None:
    calls = [narrow.Stylize(long_request(), timeout=LONG) for _ in range(3)]
    for call in calls:
        read_until(call, "accepted")
    bad = tiny_request(steps=0)
    assert refusal(narrow, bad).code is grpc.StatusCode.INVALID_ARGUMENT
    for call in reversed(calls):
        call.cancel()
    assert_serves(narrow)


def test_jobs_end_in_the_order_they_came(narrow: StyleTransferServiceStub) -> None:
    calls = []
    for _ in range(3):
        calls.append(narrow.Stylize(tiny_request(), timeout=LONG))
        read_until(calls[-1], "accepted")
    ends = []
    for call in calls:
        *_, last = call
        assert last.HasField("completed")
        ends.append((last.event_time.ToNanoseconds(), last.completed.queued_time.ToNanoseconds()))
    assert ends == sorted(ends)
    assert ends[2][1] > 0


def test_heartbeats_while_queued(narrow: StyleTransferServiceStub) -> None:
    running = narrow.Stylize(long_request(), timeout=LONG)
    read_until(running, "progress")
    queued = narrow.Stylize(tiny_request(), timeout=LONG)
    waiting = list(itertools.islice(queued, 4))
    assert [response.WhichOneof("event") for response in waiting] == ["accepted", *["heartbeat"] * 3]
    gap = waiting[-1].event_time.ToNanoseconds() - waiting[1].event_time.ToNanoseconds()
    assert gap >= 2 * 0.2e9 * 0.9
    running.cancel()
    responses = waiting + list(queued)
    assert responses[-1].HasField("completed")
    assert [response.sequence for response in waiting] == [1, 1, 1, 1]
    numbers = [response.sequence for response in responses if not response.HasField("heartbeat")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_log_names_every_job_that_ended(narrow_server: ServerProcess, narrow: StyleTransferServiceStub) -> None:
    call = narrow.Stylize(tiny_request(steps=1), timeout=LONG)
    job_id = read_until(call, "accepted").job_id
    read_until(call, "completed")
    narrow_server.wait_for_log(f"job {job_id} succeeded")
