"""Checkpoints on disk: whole or not there, written now and then, and a killed worker's job that goes on from one."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from intarsia_server.engine.cancel import never
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.engine.errors import CancelledError
from intarsia_server.engine.stages import StageDone
from intarsia_server.executors import checkpoint_format, checkpoints
from intarsia_server.executors.base import (
    ResumedEvent,
)
from intarsia_server.executors.checkpoint_files import part_of, remove_checkpoint
from intarsia_server.executors.checkpoints import CheckpointWriter, read_checkpoint
from intarsia_server.jobs.events import Numbered
from intarsia_server.rpc.responses import Responses
from server_process import LONG, eventually

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
