"""Checkpoints on disk: whole or not there, written now and then, and a killed worker's job that goes on from one."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import server_pictures as pictures
import torch
from intarsia_server.engine.cancel import never
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.engine.errors import CancelledError
from intarsia_server.engine.events import TransferWarning
from intarsia_server.engine.parameters import SequentialParameters
from intarsia_server.engine.request import (
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Segment,
    Start,
    TransferRequest,
)
from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.executors import checkpoint_format, checkpoints
from intarsia_server.executors.base import (
    ExecutionCancelledError,
    ExecutorEvent,
    ProgressEvent,
    ResultEvent,
    ResumedEvent,
    WorkerDiedError,
)
from intarsia_server.executors.checkpoint_files import part_of, remove_checkpoint
from intarsia_server.executors.checkpoints import CheckpointWriter, read_checkpoint
from intarsia_server.executors.local import LocalExecutor
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.jobs.events import Numbered
from intarsia_server.rpc.responses import Responses
from server_process import LONG, children, command_line, eventually

MINE = "a" * 64
SOON = 1e-9
LOSSES = (("content", None, 0.1), ("style", 2, 1 / 3))


def summary(stage: str, steps: int) -> StageDone:
    return StageDone(stage, steps, 1.5, LOSSES, 0.1 + 1 / 3, 3, 1, converged=True)


def a_checkpoint(steps: int = 7) -> Checkpoint:
    """With a tensor of each kind that optimizers have: of no dimension, of float64, and a part of a larger one."""
    generator = torch.Generator().manual_seed(steps)
    return Checkpoint(
        earlier=(summary("coarse", 3), summary("vanilla", 4)),
        so_far=summary("segment 1", steps),
        ended=False,
        totals=(3.0, 0.1),
        ahead=(0.25, 1e-30),
        composite=torch.randn(1, 3, 5, 4, generator=generator).contiguous(memory_format=torch.channels_last),
        first=None,
        optimizer={
            "step": torch.tensor(float(steps)),
            "vectors": torch.randn(5, 100, generator=generator)[:, :60],
            "state": torch.tensor([float("inf"), 1 / 3], dtype=torch.float64),
            "none": torch.zeros(0),
        },
    )


def assert_equal(one: Checkpoint, other: Checkpoint) -> None:
    empty: dict[str, Any] = {"composite": None, "first": None, "optimizer": {}}
    assert replace(one, **empty) == replace(other, **empty)
    assert one.optimizer.keys() == other.optimizer.keys()
    pairs = [(one.optimizer[name], other.optimizer[name]) for name in one.optimizer]
    pairs += [(a, b) for a, b in ((one.composite, other.composite), (one.first, other.first)) if a is not None]
    for a, b in pairs:
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def beside(path: Path) -> list[str]:
    """What lies in its folder."""
    return [entry.name for entry in path.parent.iterdir()]


def settled() -> bool:
    """Whether nothing is being written."""
    return not any(thread.name == "intarsia-checkpoint" for thread in threading.enumerate())


def write_next(writer: CheckpointWriter, checkpoint: Checkpoint) -> None:
    """Offers it until it is due, and waits for what becomes of it."""
    taken: list[Checkpoint] = []

    def take() -> Checkpoint:
        taken.append(checkpoint)
        return checkpoint

    def offered() -> bool:
        writer.offer(take, never)
        return bool(taken)

    eventually(offered, "the next checkpoint to be due")
    eventually(settled, "it to be written")


def written(path: Path, checkpoint: Checkpoint, fingerprint: str = MINE) -> None:
    """As a worker does it."""
    with CheckpointWriter(path, fingerprint, SOON) as writer:
        write_next(writer, checkpoint)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job"


def test_what_is_written_is_read(path: Path) -> None:
    written(path, a_checkpoint())
    found = read_checkpoint(path, MINE)
    assert found is not None
    assert_equal(found, a_checkpoint())
    assert path.stat().st_mode & 0o777 == 0o600
    assert beside(path) == ["job"]


def test_there_is_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_checkpoint(path, MINE) is None
    assert not caplog.records


def spoilt() -> Iterator[Any]:
    """What may be done to a file, and what the log then says."""
    for share in (0.0, 0.3, 0.99):
        yield pytest.param(lambda data, share=share: data[: int(share * len(data))], "it is ", id=f"torn at {share}")
    yield pytest.param(lambda data: data[:-1], "it is damaged", id="one byte short")
    yield pytest.param(lambda data: data + b"\0", "it is damaged", id="one byte long")
    for place in (30, 200, -200, -1):

        def flipped(data: bytes, place: int = place) -> bytes:
            changed = bytearray(data)
            changed[place] ^= 1
            return bytes(changed)

        yield pytest.param(flipped, "it is damaged", id=f"a bit changed at {place}")
    yield pytest.param(
        lambda data: data.replace(b"intarsia checkpoint 1", b"intarsia checkpoint 0", 1), "another version", id="older"
    )
    yield pytest.param(lambda data: os.urandom(len(data)), "it is none", id="noise")
    yield pytest.param(lambda data: b"\x80\x04\x95" + data, "it is none", id="a pickle's beginning")


@pytest.mark.parametrize(("spoil", "reason"), [*spoilt()])
def test_a_spoilt_file_is_not_used(
    spoil: Callable[[bytes], bytes], reason: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(path, a_checkpoint())
    path.write_bytes(spoil(path.read_bytes()))
    assert read_checkpoint(path, MINE) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert reason in record.getMessage()
    assert str(path) not in record.getMessage()


def test_another_requests_checkpoint_is_not_used(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path, a_checkpoint(), "b" * 64)
    assert read_checkpoint(path, MINE) is None
    assert "of another request" in caplog.text


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/path")


@pytest.mark.parametrize("where", ["write", "seal", "fsync", "rename"])
def test_a_full_disk(where: str, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The job goes on, the old one stays, nothing else is left; and once there is room again the next is written."""
    written(path, a_checkpoint(1))
    with CheckpointWriter(path, MINE, SOON) as writer, caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patch:
            match where:
                case "write":
                    original = checkpoint_format.write

                    def halfway(file: Any, *arguments: Any) -> None:
                        original(file, *arguments)
                        full()

                    patch.setattr(checkpoint_format, "write", halfway)
                case "seal":
                    patch.setattr(checkpoint_format, "seal", full)
                case "fsync":
                    patch.setattr(checkpoints.os, "fsync", full)
                case "rename":
                    patch.setattr(Path, "replace", full)
            write_next(writer, a_checkpoint(2))
            write_next(writer, a_checkpoint(2))
        (record,) = caplog.records
        assert "No space left on device" in record.getMessage()
        assert "secret" not in record.getMessage()
        assert beside(path) == ["job"]
        found = read_checkpoint(path, MINE)
        assert found is not None
        assert_equal(found, a_checkpoint(1))
        write_next(writer, a_checkpoint(3))
        found = read_checkpoint(path, MINE)
        assert found is not None
        assert_equal(found, a_checkpoint(3))


def test_not_before_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every five seconds; and where writing takes a second, every twenty."""
    now = [100.0]
    taken: list[float] = []
    slow = [0.0]

    def take() -> Checkpoint:
        taken.append(now[0])
        now[0] += slow[0]
        return a_checkpoint()

    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with CheckpointWriter(path, MINE, 5.0) as writer:
        for _ in range(60):
            now[0] += 1.0
            slow[0] = 1.0 if now[0] >= 130 else 0.0
            writer.offer(take, never)
            eventually(settled, "the thread to end")
    assert taken[:6] == [105, 110, 115, 120, 125, 130]
    assert taken[6:] == [150]


@pytest.mark.parametrize("seconds", [0.0, SOON])
def test_nothing_is_written_unasked(seconds: float, path: Path) -> None:
    with CheckpointWriter(path if seconds == 0 else None, MINE, seconds) as writer:
        writer.offer(lambda: pytest.fail("a checkpoint was taken"), never)
    assert not beside(path)


def test_a_writer_that_is_done_touches_nothing_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever then removes the file does not see it come back, however slow the disk."""
    gate, passed = threading.Event(), threading.Event()
    original = os.fsync

    def slow(descriptor: int) -> None:
        gate.wait(LONG)
        original(descriptor)
        passed.set()

    monkeypatch.setattr(checkpoints.os, "fsync", slow)
    with CheckpointWriter(path, MINE, SOON) as writer:
        writer.offer(a_checkpoint, never)
        assert part_of(path).exists()
    assert not beside(path)
    gate.set()
    assert passed.wait(LONG)
    eventually(settled, "the thread to end")
    assert not beside(path)


def test_a_cancel_does_not_wait_for_the_rest(path: Path) -> None:
    with pytest.raises(CancelledError), CheckpointWriter(path, MINE, SOON) as writer:
        writer.offer(a_checkpoint, lambda: True)
    assert not beside(path)


def test_what_a_dead_worker_left_is_removed(path: Path) -> None:
    written(path, a_checkpoint())
    part_of(path).write_bytes(b"half of one")
    with CheckpointWriter(path, MINE, 5.0):
        assert beside(path) == ["job"]
    part_of(path).write_bytes(b"half of one")
    remove_checkpoint(path)
    remove_checkpoint(path)
    assert not beside(path)


def test_a_message_says_where_a_job_goes_on() -> None:
    (watched,) = Responses().messages(Numbered(4, 0.0, ResumedEvent("segment 1", 7), 4, None))
    message = watched.event
    assert message.sequence == 4
    assert (message.resumed.stage, message.resumed.step) == ("segment 1", 7)


STEPS = 12
CONFIG = WorkerConfig(
    device="cpu",
    threads=1,
    encoder="embedded",
    encoder_files={},
    segmentation_files={},
    allow_download=False,
    max_pixels=1_000_000,
    target_cache_bytes=2**27,
    checkpoint_seconds=0.01,
    log_level="INFO",
    log_format="text",
)


def request(seed: int = 0) -> TransferRequest:
    """Four stages, with a warning before the first: the label map is of another size."""
    return TransferRequest(
        content=pictures.content(),
        segmentation=LabelMapSource(pictures.label_map((97, 64))),
        segments=tuple(
            Segment(labels=(label,), style=pictures.style(name)) for label, name in enumerate(pictures.STYLES)
        ),
        parameters=SequentialParameters(steps=STEPS, smoothing_steps=STEPS, coarse_steps=0, background=0),
        paper=False,
        optimization=Optimization(optimizer=Optimizer.LBFGS, learning_rate=0.02, history=4, start=Start.NOISE),
        output=Output(),
        seed=seed,
        encoder="embedded",
        precision=Precision.FP32,
        preview_interval=0,
    )


async def run(
    executor: LocalExecutor,
    of: TransferRequest,
    checkpoint: Path | None,
    *,
    until: Callable[[ExecutorEvent], bool] = lambda _: False,
    then: Callable[[asyncio.Event], None] = lambda _: None,
) -> list[ExecutorEvent]:
    """Its events; with the first one that is as `until` says, `then` is done."""
    events: list[ExecutorEvent] = []
    is_done = False
    cancel = asyncio.Event()
    with suppress(WorkerDiedError, ExecutionCancelledError):
        async for event in executor.run(of, cancel, checkpoint):
            events.append(event)
            if not is_done and until(event):
                is_done = True
                then(cancel)
    return events


def kill_worker(_: asyncio.Event) -> None:
    (worker,) = [pid for pid in children(os.getpid()) if "spawn_main" in command_line(pid)]
    os.kill(worker, signal.SIGKILL)


def step_of(stage: str, step: int) -> Callable[[ExecutorEvent], bool]:
    return lambda event: isinstance(event, ProgressEvent) and event.stage == stage and event.step >= step


def both(place: Callable[[ExecutorEvent], bool], path: Path) -> Callable[[ExecutorEvent], bool]:
    """There, with a checkpoint on disk."""
    return lambda event: place(event) and path.exists()


def told(events: list[ExecutorEvent]) -> list[tuple[Any, ...]]:
    return [
        (event.stage, event.step, event.losses, event.fraction) for event in events if isinstance(event, ProgressEvent)
    ]


def summaries(events: list[ExecutorEvent]) -> list[tuple[Any, ...]]:
    result = events[-1]
    assert isinstance(result, ResultEvent)
    return [(stage.stage, stage.steps, stage.losses, stage.total) for stage in result.stages]


def of_kind(kind: type, events: list[ExecutorEvent]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_killed_workers_job_goes_on(path: Path) -> None:
    async def go() -> None:
        executor = LocalExecutor([CONFIG])
        await executor.start(lambda _: None)
        try:
            of = request()
            whole = await run(executor, of, None)
            assert of_kind(TransferWarning, whole)
            assert not beside(path)
            attempts = []
            for place in (step_of("vanilla", 6), step_of("segment 2", 4)):
                attempts.append(await run(executor, of, path, until=both(place, path), then=kill_worker))
                part_of(path).write_bytes(b"half of one")
            attempts.append(await run(executor, of, path))
            assert not of_kind(ResumedEvent, attempts[0])
            for after in attempts[1:]:
                resumed, started = after[:2]
                assert isinstance(resumed, ResumedEvent)
                assert isinstance(started, StageStarted)
                assert started.stage == resumed.stage
                assert not of_kind(TransferWarning, after)
                # Each attempt's steps are the unbroken run's, from where it was taken up.
                at = [(stage, step) for stage, step, *_ in told(whole)].index((resumed.stage, resumed.step))
                assert told(after) == told(whole)[at + 1 :][: len(told(after))]
            last, expected = attempts[-1][-1], whole[-1]
            assert isinstance(last, ResultEvent)
            assert isinstance(expected, ResultEvent)
            assert last.image == expected.image
            assert summaries(attempts[-1]) == summaries(whole)
            assert beside(path) == ["job"]
        finally:
            await executor.stop()

    asyncio.run(go())


def test_a_worker_and_what_it_finds(path: Path) -> None:
    """Cancelled, it leaves its last checkpoint; another request's is passed over; whole jobs alone teach speeds."""

    async def go() -> None:
        executor = LocalExecutor([CONFIG])
        await executor.start(lambda _: None)
        try:
            events = await run(
                executor, request(), path, until=both(step_of("segment 1", 4), path), then=asyncio.Event.set
            )
            assert not of_kind(ResultEvent, events)
            assert beside(path) == ["job"]
            info = executor.info()
            assert info is not None
            before = info.speeds

            resumed = await run(executor, request(), path)
            assert of_kind(ResumedEvent, resumed)
            info = executor.info()
            assert info is not None
            assert info.speeds == before

            other = await run(executor, request(seed=1), path)
            assert not of_kind(ResumedEvent, other)
            assert len(told(other)) == 4 * STEPS
            info = executor.info()
            assert info is not None
            assert info.speeds != before
        finally:
            await executor.stop()

    asyncio.run(go())
