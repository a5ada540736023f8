"""Both clients when connections break and servers die, in every phase of a job."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from fake_server import picture, retry_info, running
from fault_proxy import FaultProxy
from google.protobuf.message import Message
from intarsia import AsyncClient, Client, IntarsiaError, Result
from intarsia.channel import CHANNEL_OPTIONS
from intarsia.v1 import style_transfer_pb2 as pb
from lasting_server import EVENTS, LastingServer

JOB = {"labels": b"labels", "styles": {0: b"style", 1: "keep"}}


@dataclass
class Outcome:
    events: list[pb.StylizeResponse]
    result: Result

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]


Listener = Callable[[pb.StylizeResponse], None]


def run(
    fake: LastingServer,
    reattach_seconds: float = 20,
    address: str = "",
    content: bytes = b"content",
    listener: Listener = lambda _: None,
    **options: object,
) -> Outcome:
    with Client(address or fake.address, reattach_seconds=reattach_seconds) as client:
        job = client.stylize(content, **JOB, **options)  # type: ignore[arg-type]
        events = []
        for event in job:
            events.append(event)
            listener(event)
        return Outcome(events, job.result())


def run_async(
    fake: LastingServer,
    reattach_seconds: float = 20,
    address: str = "",
    content: bytes = b"content",
    listener: Listener = lambda _: None,
    **options: object,
) -> Outcome:
    async def go() -> Outcome:
        async with AsyncClient(address or fake.address, reattach_seconds=reattach_seconds) as client:
            job = await client.stylize(content, **JOB, **options)  # type: ignore[arg-type]
            events = []
            async for event in job:
                events.append(event)
                listener(event)
            return Outcome(events, await job.result())

    return asyncio.run(go())


both = pytest.mark.parametrize("run", [run, run_async])
Run = Callable[..., Outcome]


@both
@pytest.mark.parametrize("after", range(EVENTS + 1))
def test_a_break_in_any_phase(lasting: LastingServer, run: Run, after: int) -> None:
    lasting.breaks.append(after)
    outcome = run(lasting)
    assert outcome.result.image == picture()
    assert outcome.sequences == list(range(1, EVENTS + 1))
    assert len(lasting.jobs) == 1
    if after:
        assert [watch.after_sequence for watch in lasting.watches] == [after]
        assert len(lasting.requests) == 1
    else:
        assert not lasting.watches
        assert lasting.requests[0] == lasting.requests[1]
        assert lasting.requests[0].request_id


@both
def test_a_connection_that_breaks_after_every_event(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.extend([0, *[1] * EVENTS])
    outcome = run(lasting)
    assert outcome.result.image == picture()
    assert outcome.sequences == list(range(1, EVENTS + 1))
    assert len(lasting.jobs) == 1


@both
def test_giving_up_with_the_error_as_it_was(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.extend([2, *[0] * 1000])
    with pytest.raises(IntarsiaError, match="UNAVAILABLE: Socket closed"):
        run(lasting, reattach_seconds=0.5)
    assert lasting.watches


@both
def test_no_second_try_when_told_so(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.append(2)
    with pytest.raises(IntarsiaError, match="UNAVAILABLE: Socket closed"):
        run(lasting, reattach_seconds=0)
    assert not lasting.watches


Refusal = tuple[grpc.StatusCode, str, tuple[Message, ...], tuple[tuple[str, str], ...]]


def refusal(code: grpc.StatusCode, *details: Message, metadata: tuple[tuple[str, str], ...] = ()) -> Refusal:
    return code, "no", details, metadata


@both
@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAUTHENTICATED,
    ],
)
def test_refusals_are_final(lasting: LastingServer, run: Run, code: grpc.StatusCode) -> None:
    lasting.refusals.append(refusal(code))
    with pytest.raises(IntarsiaError) as caught:
        run(lasting, wait_when_busy=60)
    assert caught.value.code is code
    assert len(lasting.requests) == 1


HINTS = [
    refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_info(1)),
    refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=(("grpc-retry-pushback-ms", "20"),)),
]


@both
@pytest.mark.parametrize("hint", HINTS)
def test_a_full_queue_is_waited_for_when_asked_to(lasting: LastingServer, run: Run, hint: Refusal) -> None:
    lasting.refusals.extend([hint, hint])
    assert run(lasting, wait_when_busy=30).result.image == picture()
    assert len(lasting.requests) == 3
    assert len({request.request_id for request in lasting.requests}) == 1


@both
@pytest.mark.parametrize("wait_when_busy", [0, 0.5])
def test_a_full_queue_that_is_not_worth_waiting_for(lasting: LastingServer, run: Run, wait_when_busy: float) -> None:
    lasting.refusals.append(HINTS[0])
    with pytest.raises(IntarsiaError) as caught:
        run(lasting, wait_when_busy=wait_when_busy)
    assert (caught.value.code, caught.value.retry_after_seconds) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)
    assert len(lasting.requests) == 1


@both
def test_a_server_that_comes_back_without_its_data(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.append(7)
    lasting.forgetful = True
    outcome = run(lasting)
    assert outcome.result.image == picture()
    assert outcome.sequences == [*range(1, 8), *range(1, EVENTS + 1)]
    assert len(lasting.requests) == 2
    assert lasting.requests[0] == lasting.requests[1]


@both
def test_large_pictures_are_sent_anew_with_their_request(lasting: LastingServer, run: Run) -> None:
    large = random.Random(1).randbytes(5 * 2**20)
    lasting.breaks.append(2)
    lasting.forgetful = True
    assert run(lasting, content=large).result.image == picture()
    first, second = lasting.requests
    assert first.content.upload_id != second.content.upload_id
    assert lasting.uploads == {second.content.upload_id: large}


@both
def test_waits_for_room_for_an_upload(lasting: LastingServer, run: Run) -> None:
    """Also where the whole upload is given up: it is the job that waits."""
    lasting.upload_failures = [grpc.StatusCode.RESOURCE_EXHAUSTED]
    lasting.upload_retry_seconds = 0
    large = random.Random(1).randbytes(5 * 2**20)
    assert run(lasting, content=large, wait_when_busy=60).result.image == picture()
    (request,) = lasting.requests
    assert lasting.uploads[request.content.upload_id] == large


@both
def test_an_upload_that_is_refused_for_good(lasting: LastingServer, run: Run) -> None:
    lasting.upload_failures = [grpc.StatusCode.INVALID_ARGUMENT]
    with pytest.raises(IntarsiaError) as caught:
        run(lasting, content=bytes(5 * 2**20), wait_when_busy=60)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not lasting.requests


@both
def test_sent_anew_only_once(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.extend([2, 2, 2])
    lasting.forgetful = True
    with pytest.raises(IntarsiaError) as caught:
        run(lasting)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert len(lasting.requests) == 2


@both
def test_a_job_that_failed_for_good_is_no_break(lasting: LastingServer, run: Run) -> None:
    """A worker that died three times: UNAVAILABLE is the job's own status."""
    job = lasting.add(request_id="3e6f1c3e-0000-4000-8000-000000000000")
    lasting.fail(job, grpc.StatusCode.UNAVAILABLE, "the worker process died")
    with pytest.raises(IntarsiaError, match="the worker process died"):
        run(lasting, request_id=job.request_id)
    assert not lasting.watches


@both
def test_a_job_that_the_server_cancelled_with_the_connection(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.append(3)
    lasting.cancels_on_break = True
    outcome = run(lasting)
    assert outcome.result.image == picture()
    assert outcome.result.job_id == "job-2"
    first, second = (request.request_id for request in lasting.requests)
    assert first != second == outcome.result.request_id


@both
def test_a_detached_job_that_was_cancelled_stays_so(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.append(3)
    lasting.cancels_on_break = True
    with pytest.raises(IntarsiaError, match="CANCELLED: the job was cancelled"):
        run(lasting, detach=True)
    assert len(lasting.requests) == 1


@both
@pytest.mark.parametrize("kept_from", [3, 5, 7, EVENTS + 1])
def test_past_the_buffer(lasting: LastingServer, run: Run, kept_from: int) -> None:
    lasting.breaks.append(1)
    lasting.kept_from = kept_from
    outcome = run(lasting)
    assert outcome.result.image == picture()
    assert outcome.sequences == [1, kept_from - 1, *range(kept_from, EVENTS + 1)]
    assert outcome.events[1].HasField("snapshot")
    assert bool(lasting.downloads) is (kept_from > 5)
    assert outcome.result.job_id == "job-1"
    assert outcome.result.run_time.total_seconds() == 3


@both
def test_the_deadline_is_that_of_the_whole_job(lasting: LastingServer, run: Run) -> None:
    lasting.endless = True
    lasting.breaks.append(2)
    with pytest.raises(IntarsiaError) as caught:
        run(lasting, timeout=1)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert lasting.watches
    assert lasting.cancelled.wait(5)


@both
def test_the_deadline_passes_while_the_server_is_away(lasting: LastingServer, run: Run) -> None:
    lasting.breaks.extend([0] * 1000)
    with pytest.raises(IntarsiaError) as caught:
        run(lasting, timeout=0.5)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


breaks = pytest.mark.parametrize("broken", [(), (2,)], ids=["unbroken", "after a break"])


@breaks
@pytest.mark.parametrize("leave", ["cancel", "with", "client"])
def test_leaving_cancels_by_name(lasting: LastingServer, leave: str, broken: tuple[int, ...]) -> None:
    """At once, that is: a call that merely ends might have been cut."""
    lasting.endless = True
    lasting.breaks.extend(broken)
    with Client(lasting.address) as client:
        job = client.stylize(b"content", **JOB)  # type: ignore[arg-type]
        assert [next(job).sequence for _ in range(3)] == [1, 2, 3]
        assert not lasting.cancelled.is_set()
        match leave:
            case "cancel":
                job.cancel()
            case "with":
                with job:
                    pass
            case "client":
                client.close()
        assert lasting.cancelled.is_set()
        with pytest.raises(IntarsiaError, match="CANCELLED"):
            next(job)
        job.cancel()  # without effect


@breaks
@pytest.mark.parametrize("leave", ["cancel", "with", "client", "task"])
def test_leaving_cancels_by_name_async(lasting: LastingServer, leave: str, broken: tuple[int, ...]) -> None:
    lasting.endless = True
    lasting.breaks.extend(broken)

    async def go() -> None:
        async with AsyncClient(lasting.address) as client:
            job = await client.stylize(b"content", **JOB)  # type: ignore[arg-type]
            assert [(await anext(job)).sequence for _ in range(3)] == [1, 2, 3]
            assert not lasting.cancelled.is_set()
            match leave:
                case "cancel":
                    job.cancel()
                    with pytest.raises(IntarsiaError, match="CANCELLED"):
                        await anext(job)
                case "with":
                    async with job:
                        pass
                case "client":
                    await client.close()
                case "task":
                    task = asyncio.create_task(job.result())
                    await asyncio.sleep(0.1)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
            assert await asyncio.to_thread(lasting.cancelled.wait, 5)

    asyncio.run(go())


def test_leaving_a_detached_or_watched_job_does_nothing_to_it(lasting: LastingServer) -> None:
    lasting.endless = True
    with Client(lasting.address) as client:
        with client.stylize(b"content", detach=True, **JOB) as job:  # type: ignore[arg-type]
            next(job)
        assert lasting.requests[0].on_disconnect == pb.ON_DISCONNECT_DETACH
        with client.watch(job.job_id) as watched:
            next(watched)
    assert not lasting.cancelled.is_set()
    with Client(lasting.address) as client:
        client.watch(job.job_id).cancel()  # in so many words
    assert lasting.cancelled.is_set()


def test_leaving_a_detached_or_watched_job_does_nothing_to_it_async(lasting: LastingServer) -> None:
    lasting.endless = True

    async def go() -> None:
        async with AsyncClient(lasting.address) as client:
            async with await client.stylize(b"content", detach=True, **JOB) as job:  # type: ignore[arg-type]
                await anext(job)
            async with client.watch(job.job_id) as watched:
                await anext(watched)
        assert not lasting.cancelled.is_set()
        async with AsyncClient(lasting.address) as client, client.watch(job.job_id) as watched:
            watched.cancel()

    asyncio.run(go())
    assert lasting.cancelled.is_set()


def test_a_request_without_an_id_gets_one(lasting: LastingServer) -> None:
    lasting.breaks.append(0)
    request = pb.StylizeRequest(seed=3)
    with Client(lasting.address) as client:
        job = client.start(request)
        assert job.result().request_id == job.request.request_id  # type: ignore[union-attr]
    assert not request.request_id
    assert lasting.requests[0] == lasting.requests[1]


def test_a_blackhole_is_noticed_in_time() -> None:
    options = dict(CHANNEL_OPTIONS)
    assert options["grpc.keepalive_time_ms"] + options["grpc.keepalive_timeout_ms"] <= 45_000
    # A ping of another kind may be on its way: the keepalive waits for it.
    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] <= 45_000


def test_a_server_that_was_killed_and_comes_back(lasting: LastingServer) -> None:
    """Not a status that a script sends, but a socket that is gone for a while."""
    later = LastingServer(lasting.address.replace("fake.sock", "later.sock"), endless=True)
    with Client(later.address) as client:
        with running(later):
            job = client.stylize(b"content", **JOB)  # type: ignore[arg-type]
            assert [next(job).sequence for _ in range(3)] == [1, 2, 3]
        later.endless = False
        for kept in later.jobs.values():
            kept.state = pb.JOB_STATE_SUCCEEDED
        with running(later):
            assert [event.sequence for event in job] == list(range(4, EVENTS + 1))
            assert job.result().image == picture()
    assert len(later.requests) == 1


@both
@pytest.mark.parametrize("fault", ["cut", "reset", "half_close", "blackhole"])
def test_a_network_that_fails(lasting: LastingServer, run: Run, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    impatient = tuple({**dict(CHANNEL_OPTIONS), **dict.fromkeys(names, 500)}.items())
    for module in ("intarsia.client", "intarsia.aio"):
        monkeypatch.setattr(f"{module}.CHANNEL_OPTIONS", impatient)
    lasting.endless = True
    with FaultProxy(lasting.address.removeprefix("unix:")) as proxy:

        def fail_then_finish(event: pb.StylizeResponse) -> None:
            if event.sequence == 3:
                proxy.fail(fault)
                for job in lasting.jobs.values():
                    job.state = pb.JOB_STATE_SUCCEEDED

        outcome = run(lasting, address=proxy.address, listener=fail_then_finish)
    assert outcome.result.image == picture()
    assert outcome.sequences == list(range(1, EVENTS + 1))
    assert len(lasting.jobs) == 1
    assert [watch.after_sequence for watch in lasting.watches] == [3]
