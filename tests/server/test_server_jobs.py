"""Jobs that outlive a call and a server: asked for, watched again, attached to, fetched, and killed in the middle."""

from __future__ import annotations

import itertools
import signal
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import Outcome, assert_serves, failure_of, long_request, read_until, run_job, tiny_request
from server_process import LONG, ServerProcess, eventually

Start = Callable[..., ServerProcess]


def get_job(stub: StyleTransferServiceStub, job_id: str) -> pb.Job:
    return stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=LONG).job


def watched(stub: StyleTransferServiceStub, job_id: str, after: int = 0) -> list[pb.StylizeResponse]:
    request = pb.WatchJobRequest(job_id=job_id, after_sequence=after)
    return [response.event for response in stub.WatchJob(request, timeout=LONG)]


def result_of(stub: StyleTransferServiceStub, job_id: str, offset: int = 0) -> tuple[pb.ResultEvent, bytes]:
    first, *rest = stub.GetResult(pb.GetResultRequest(job_id=job_id, offset=offset), timeout=LONG)
    data = first.data
    assert first.offset == offset
    for response in rest:
        assert response.offset == offset + len(data)
        assert not response.HasField("result")
        data += response.data
    return first.result, data


def detached(request: pb.StylizeRequest) -> pb.StylizeRequest:
    request.request_id = str(uuid.uuid4())
    request.on_disconnect = pb.ON_DISCONNECT_DETACH
    return request


def wait_for_end(stub: StyleTransferServiceStub, job_id: str) -> pb.Job:
    eventually(lambda: get_job(stub, job_id).HasField("end_time"), "the job to end")
    return get_job(stub, job_id)


def test_job_is_told_while_it_waits_runs_and_when_it_has_ended(stub: StyleTransferServiceStub) -> None:
    running = stub.Stylize(long_request(), timeout=LONG)
    first = read_until(running, "accepted").job_id
    read_until(running, "progress")
    queued = stub.Stylize(tiny_request(), timeout=LONG)
    second = read_until(queued, "accepted").job_id

    job = get_job(stub, first)
    assert (job.state, job.kind, job.attempts, job.width, job.height) == (
        pb.JOB_STATE_RUNNING, "masked-gram", 1, *pictures.CONTENT_SIZE,
    )  # fmt: skip
    assert 0 < job.fraction < 1
    assert job.HasField("start_time")
    assert not job.HasField("end_time")
    job = get_job(stub, second)
    assert (job.state, job.queue_position, job.attempts) == (pb.JOB_STATE_QUEUED, 1, 0)
    assert not job.HasField("start_time")

    assert stub.CancelJob(pb.CancelJobRequest(job_id=second), timeout=LONG).job.state == pb.JOB_STATE_CANCELLED
    assert failure_of(queued).code is grpc.StatusCode.CANCELLED
    stub.CancelJob(pb.CancelJobRequest(job_id=first), timeout=LONG)
    assert failure_of(running).code is grpc.StatusCode.CANCELLED
    job = get_job(stub, first)
    assert (job.state, job.error_code) == (pb.JOB_STATE_CANCELLED, grpc.StatusCode.CANCELLED.value[0])
    assert job.error_message
    again = stub.CancelJob(pb.CancelJobRequest(job_id=first), timeout=LONG).job
    assert again == job

    outcome = run_job(stub, tiny_request())
    job = get_job(stub, outcome.of("accepted")[0].job_id)
    assert (job.state, job.fraction, job.sequence) == (pb.JOB_STATE_SUCCEEDED, 1, outcome.responses[-1].sequence)
    assert job.result_bytes == len(outcome.image)


@pytest.mark.parametrize("job_id", ["", "nobody", str(uuid.UUID(int=7)), "\0' OR 1=1 --", "7" * 10_000])
def test_job_that_is_not_there(stub: StyleTransferServiceStub, job_id: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: stub.GetJob(pb.GetJobRequest(job_id=job_id), timeout=LONG),
        lambda: stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=LONG),
        lambda: list(stub.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=LONG)),
        lambda: list(stub.GetResult(pb.GetResultRequest(job_id=job_id), timeout=LONG)),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_list_is_paged_and_the_newest_first(stub: StyleTransferServiceStub) -> None:
    ids = [run_job(stub, tiny_request(steps=1)).of("accepted")[0].job_id for _ in range(3)]
    cancelled = stub.Stylize(long_request(), timeout=LONG)
    ids.append(read_until(cancelled, "accepted").job_id)
    stub.CancelJob(pb.CancelJobRequest(job_id=ids[-1]), timeout=LONG)
    wait_for_end(stub, ids[-1])

    seen: list[str] = []
    request = pb.ListJobsRequest(page_size=2)
    for _ in range(2):
        page = stub.ListJobs(request, timeout=LONG)
        seen += [job.job_id for job in page.jobs]
        request.page_token = page.next_page_token
    assert seen == ids[::-1]
    page = stub.ListJobs(pb.ListJobsRequest(page_size=1, states=[pb.JOB_STATE_SUCCEEDED]), timeout=LONG)
    assert [job.job_id for job in page.jobs] == [ids[2]]
    everything = stub.ListJobs(pb.ListJobsRequest(page_size=1000), timeout=LONG)
    assert not everything.next_page_token


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListJobsRequest(page_size=1001), "page_size"),
        (pb.ListJobsRequest(page_token="here"), "page_token"),
        (pb.ListJobsRequest(page_token="9" * 99), "page_token"),
        (pb.ListJobsRequest(states=[pb.JOB_STATE_QUEUED, 77]), "states[1]"),
        (pb.ListJobsRequest(states=[pb.JOB_STATE_QUEUED] * 1000), "states"),
    ],
)
def test_bad_page(stub: StyleTransferServiceStub, request_: pb.ListJobsRequest, field: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ListJobs(request_, timeout=LONG)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    assert raised.value.details().startswith(field)  # type: ignore[attr-defined]


def test_watchers_have_the_same_events_and_take_them_up_anywhere(narrow: StyleTransferServiceStub) -> None:
    call = narrow.Stylize(tiny_request(steps=40), timeout=LONG)
    accepted = next(call)
    job_id = accepted.accepted.job_id
    watcher = narrow.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=LONG)
    first = next(watcher).event
    assert first == accepted
    watcher.cancel()  # which does nothing to the job
    later = watched(narrow, job_id, after=3)
    responses = [accepted, *call]
    whole = {response.sequence: response for response in responses if not response.HasField("heartbeat")}
    assert len(whole) > 40
    assert {event.sequence for event in later if not event.HasField("heartbeat")} == set(range(4, max(whole) + 1))
    for event in later:
        assert event.HasField("heartbeat") or event == whole[event.sequence]

    # Once it has ended, the end is told again; in the middle of the picture too.
    first_chunk = next(number for number, response in whole.items() if response.HasField("result_chunk"))
    for after in (first_chunk - 1, first_chunk + 3, max(whole) - 1, max(whole)):
        assert [event.sequence for event in watched(narrow, job_id, after)] == list(range(after + 1, max(whole) + 1))
    accepted_again, snapshot, *rest = watched(narrow, job_id)
    assert (accepted_again, snapshot.WhichOneof("event")) == (accepted, "snapshot")
    assert snapshot.sequence == first_chunk - 2
    assert rest == [whole[number] for number in range(first_chunk - 1, max(whole) + 1)]


def test_result_in_chunks_from_any_offset(narrow: StyleTransferServiceStub) -> None:
    outcome = run_job(narrow, tiny_request(steps=1))
    job_id = outcome.of("accepted")[0].job_id
    for offset in (0, 1, 1024, 5000, len(outcome.image)):
        header, data = result_of(narrow, job_id, offset)
        assert data == outcome.image[offset:]
        assert (header.sha256, header.size_bytes, header.chunk_count) == (outcome.result.sha256, len(outcome.image), 0)
        assert not header.image.data
    with pytest.raises(grpc.RpcError) as raised:
        result_of(narrow, job_id, len(outcome.image) + 1)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


def test_result_of_a_job_that_has_none(stub: StyleTransferServiceStub) -> None:
    call = stub.Stylize(long_request(), timeout=LONG)
    job_id = read_until(call, "accepted").job_id
    request = pb.GetResultRequest(job_id=job_id)
    responses: Any = stub.GetResult(request, timeout=LONG)
    assert failure_of(responses).code is grpc.StatusCode.FAILED_PRECONDITION
    call.cancel()
    wait_for_end(stub, job_id)
    responses = stub.GetResult(request, timeout=LONG)
    assert failure_of(responses).code is grpc.StatusCode.CANCELLED


def test_the_same_request_attaches_to_its_job(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=40)
    request.request_id = str(uuid.uuid4())
    calls = [stub.Stylize(request, timeout=LONG) for _ in range(3)]  # at the same time
    outcomes = [Outcome(list(call)) for call in calls]
    outcomes.append(run_job(stub, request))  # and when it has ended
    assert len({outcome.of("accepted")[0].job_id for outcome in outcomes}) == 1
    assert len({outcome.image for outcome in outcomes}) == 1


def test_job_goes_on_while_any_call_watches_it(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=60)
    request.request_id = str(uuid.uuid4())
    first, second = stub.Stylize(request, timeout=LONG), stub.Stylize(request, timeout=LONG)
    read_until(first, "progress")
    read_until(second, "accepted")
    first.cancel()
    read_until(second, "completed")


def test_detached_job_goes_on_without_its_call(stub: StyleTransferServiceStub) -> None:
    request = detached(tiny_request(steps=40))
    call = stub.Stylize(request, timeout=LONG)
    job_id = read_until(call, "accepted").job_id
    call.cancel()
    assert wait_for_end(stub, job_id).state == pb.JOB_STATE_SUCCEEDED
    assert run_job(stub, request).image == result_of(stub, job_id)[1]


def test_killed_server_has_every_job_that_was_accepted(start_server: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    requests = [detached(tiny_request(steps=steps)) for steps in (1, 200, 2)]
    server = start_server(data_dir=data)
    server.wait_until_ready()
    with server.stub() as stub:
        done = run_job(stub, requests[0])
        calls, ids = [], []
        for request in requests[1:]:  # one after the other: calls at once may come in any order
            calls.append(stub.Stylize(request, timeout=LONG))
            ids.append(read_until(calls[-1], "accepted").job_id)
        last = list(itertools.islice(calls[0], 5))[-1].sequence
        server.process.kill()
        for call in calls:
            assert failure_of(call).code is grpc.StatusCode.UNAVAILABLE
    assert server.wait_for_end() == -signal.SIGKILL

    server = start_server(data_dir=data)
    server.wait_until_ready()
    with server.stub() as stub:
        assert run_job(stub, requests[0]).image == done.image
        (snapshot, *rest) = watched(stub, ids[0], after=last)
        assert snapshot.WhichOneof("event") == "snapshot"
        numbers = [event.sequence for event in (snapshot, *rest) if not event.HasField("heartbeat")]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > last
        kinds = [event.WhichOneof("event") for event in rest]
        assert "resumed" in kinds
        assert kinds.count("result") == 1
        for request, job_id in zip(requests[1:], ids, strict=True):
            outcome = run_job(stub, request)
            assert outcome.of("accepted")[0].job_id == job_id
            assert outcome.image == result_of(stub, job_id)[1]
        assert get_job(stub, ids[0]).attempts == 2
        assert len(stub.ListJobs(pb.ListJobsRequest(), timeout=LONG).jobs) == 3
        fresh = tiny_request(steps=200)
        assert run_job(stub, fresh).image == result_of(stub, ids[0])[1]


def test_sigterm_leaves_jobs_to_the_next_start(start_server: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = start_server(data_dir=data, drain_seconds=1)
    server.wait_until_ready()
    request = detached(long_request())
    with server.stub() as stub:
        call = stub.Stylize(request, timeout=LONG)
        job_id = read_until(call, "accepted").job_id
        read_until(call, "progress")
        server.terminate()
        assert failure_of(call).code is grpc.StatusCode.UNAVAILABLE
    assert server.wait_for_end() == 0
    server = start_server(data_dir=data)
    server.wait_until_ready()
    with server.stub() as stub:
        watcher: Any = stub.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=LONG)
        assert read_until((response.event for response in watcher), "resumed").step == 0
        stub.CancelJob(pb.CancelJobRequest(job_id=job_id), timeout=LONG)
        assert failure_of(watcher).code is grpc.StatusCode.CANCELLED
        assert_serves(stub)


def test_second_server_on_a_data_directory_does_not_start(start_server: Start, tmp_path: Path) -> None:
    first = start_server(data_dir=tmp_path)
    first.wait_until_ready()
    second = start_server(data_dir=tmp_path)
    assert second.wait_for_end() == 1
    assert "in use by another server" in second.log
    with first.stub() as stub:
        assert_serves(stub)


def test_watchers_that_do_not_read_hold_nobody_up(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=400)
    request.preview_interval = 1
    call = stub.Stylize(request, timeout=LONG)
    job_id = read_until(call, "accepted").job_id
    watch = pb.WatchJobRequest(job_id=job_id)
    slow = [stub.WatchJob(watch, timeout=2 * LONG) for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        quick = list(pool.map(lambda _: watched(stub, job_id), range(10)))
    last = read_until(call, "completed")
    for responses in (*quick, *([response.event for response in responses] for responses in slow)):
        numbers = [response.sequence for response in responses if not response.HasField("heartbeat")]
        assert numbers == sorted(set(numbers))
        for before, response in itertools.pairwise(
            response for response in responses if not response.HasField("heartbeat")
        ):
            assert response.sequence == before.sequence + 1 or response.HasField("snapshot")
        assert responses[-1].completed == last
        assert sum(response.HasField("result") for response in responses) == 1
