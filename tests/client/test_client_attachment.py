"""The attachment by itself, with a clock that tests move."""

from __future__ import annotations

import grpc
import pytest
from intarsia import IntarsiaError
from intarsia.attachment import Attachment, Call
from intarsia.v1 import style_transfer_pb2 as pb

GONE = IntarsiaError(grpc.StatusCode.UNAVAILABLE, "gone")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attachment(clock: Clock, jitter: float = 1, **options: object) -> Attachment:
    return Attachment(clock=clock, jitter=lambda: jitter, **options)  # type: ignore[arg-type]


def accepted() -> pb.StylizeResponse:
    return pb.StylizeResponse(sequence=1, accepted=pb.AcceptedEvent(job_id="job-1"))


def test_tries_get_rarer_and_end() -> None:
    clock = Clock()
    held = attachment(clock, reattach_seconds=60)
    delays: list[float] = []
    while sum(delays) < 59.999:
        delays.append(held.failed(IntarsiaError(grpc.StatusCode.UNAVAILABLE, f"break {len(delays)}")))
        clock.now += delays[-1]
    clock.now += 0.01
    with pytest.raises(IntarsiaError) as caught:
        held.failed(GONE)
    assert delays[:7] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5])
    assert max(delays) == 5
    assert sum(delays) == pytest.approx(60)
    assert caught.value.message == "break 0"


def test_jitter_halves_the_delay_at_most() -> None:
    assert attachment(Clock(), jitter=0).failed(GONE) == pytest.approx(0.05)


def test_patience_is_counted_from_the_last_event() -> None:
    clock = Clock()
    held = attachment(clock, reattach_seconds=60)
    held.take(accepted())
    clock.now += 50
    held.take(pb.StylizeResponse(sequence=1, heartbeat=pb.HeartbeatEvent()))
    clock.now += 59
    assert held.failed(GONE) > 0
    clock.now += 2
    with pytest.raises(IntarsiaError):
        held.failed(GONE)


def test_a_break_that_is_noticed_late_is_followed_by_one_try() -> None:
    clock = Clock()
    held = attachment(clock, reattach_seconds=60)
    held.take(accepted())
    clock.now += 90
    assert held.failed(GONE) > 0
    assert held.next is Call.GET_JOB
    with pytest.raises(IntarsiaError):
        held.failed(GONE)


def test_greetings_alone_do_not_make_tries_more_frequent() -> None:
    clock = Clock()
    held = attachment(clock)
    held.take(accepted())
    delays = []
    for _ in range(5):
        delays.append(held.failed(GONE))
        held.found(pb.Job(job_id="job-1", state=pb.JOB_STATE_RUNNING))
        assert held.take(pb.StylizeResponse(sequence=1, snapshot=pb.SnapshotEvent(job=pb.Job(job_id="job-1"))))
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])


def test_old_events_are_not_handed_on_but_heartbeats_are() -> None:
    held = attachment(Clock(), job_id="job-1", after_sequence=5)
    assert not held.take(pb.StylizeResponse(sequence=5, progress=pb.ProgressEvent()))
    assert held.take(pb.StylizeResponse(sequence=5, heartbeat=pb.HeartbeatEvent()))
    assert held.take(pb.StylizeResponse(sequence=9, progress=pb.ProgressEvent()))
    assert held.sequence == 9


def test_a_server_that_cannot_say_how_the_job_stands() -> None:
    held = attachment(Clock())
    held.take(accepted())
    held.failed(GONE)
    with pytest.raises(IntarsiaError) as caught:
        held.failed(IntarsiaError(grpc.StatusCode.UNIMPLEMENTED, "no such call"))
    assert caught.value is GONE


def cancelled() -> pb.Job:
    return pb.Job(job_id="job-1", state=pb.JOB_STATE_CANCELLED, error_code=1, error_message="cancelled")


def test_a_cancel_soon_after_a_cut_is_taken_for_its_consequence_and_later_for_a_will() -> None:
    for later, fresh in ((30, True), (90, False)):
        clock = Clock()
        held = attachment(clock)
        held.take(accepted())
        held.failed(GONE)
        assert not held.found(pb.Job(job_id="job-1", state=pb.JOB_STATE_RUNNING))
        held.take(pb.StylizeResponse(sequence=2, progress=pb.ProgressEvent()))
        clock.now += later
        held.failed(IntarsiaError(grpc.StatusCode.CANCELLED, "cancelled"))
        if fresh:
            assert held.found(cancelled())
            assert (held.next, held.sequence, held.job_id) == (Call.STYLIZE, 0, "")
        else:
            with pytest.raises(IntarsiaError, match="CANCELLED"):
                held.found(cancelled())


def test_a_cut_of_the_watch_may_cancel_the_job_as_well() -> None:
    clock = Clock()
    held = attachment(clock)
    held.take(accepted())
    held.failed(GONE)
    assert not held.found(pb.Job(job_id="job-1", state=pb.JOB_STATE_RUNNING))
    clock.now += 600
    held.take(pb.StylizeResponse(sequence=2, progress=pb.ProgressEvent(step=1)))
    held.failed(GONE)
    assert held.found(cancelled())


def test_a_cancel_without_a_cut_is_somebodys_will() -> None:
    held = attachment(Clock())
    held.take(accepted())
    error = IntarsiaError(grpc.StatusCode.CANCELLED, "cancelled")
    held.failed(error)
    with pytest.raises(IntarsiaError) as caught:
        held.found(cancelled())
    assert caught.value is error
