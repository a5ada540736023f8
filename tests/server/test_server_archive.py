"""What outlives a manager: its jobs, their pictures and their numbers, even when the disk is full."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import pytest
from intarsia_server.jobs.archive import EndedJobError, ResultGoneError
from intarsia_server.jobs.errors import DrainingError, UnknownJobError
from intarsia_server.jobs.events import AcceptedEvent, CompletedEvent, SnapshotEvent, StoredResultEvent
from intarsia_server.jobs.files import FileStore
from intarsia_server.jobs.folder import DataFolder, DataFolderError
from intarsia_server.jobs.record import JobRecord, JobState
from intarsia_server.jobs.recovery import EPOCH
from intarsia_server.jobs.storage import StorageError, StorageFullError
from intarsia_server.jobs.store import JobStore, StoreError
from job_bench import Bench, settle, until
from server_process import LONG


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), LONG))  # type: ignore[arg-type]  # a coroutine function


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_jobs_of_a_killed_server_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Bench(tmp_path)
        await first.start()
        jobs = [await first.submit(seed) for seed in (3, 1, 2)]
        unstored = await first.submit(9, stored=False)
        await first.die()

        second = Bench(tmp_path)
        await second.start()
        assert second.executor.begun == [3]
        assert [job.job_id for job in second.manager.jobs] == [job.job_id for job in jobs]
        running = second.manager.jobs[0]
        assert (running.attempts, running.epoch) == (2, 1)
        lost = await second.manager.get(unstored.job_id, "")
        assert isinstance(lost, JobRecord)
        assert lost.state is JobState.FAILED
        second.executor.let_go(1, 2, 3)
        numbers = [
            numbered.sequence
            async for numbered in second.manager.events(running, after=2, heartbeat=LONG)
            if numbered is not None
        ]
        assert numbers[0] == EPOCH
        assert numbers == sorted(set(numbers))
        for job in list(second.manager.jobs):
            await second.events_of(job)
        assert second.executor.begun == [3, 1, 2]
        await second.stop()
        assert not names(tmp_path / "inputs")
        assert not names(tmp_path / "checkpoints")

    run(scenario)


def test_ended_jobs_are_told_by_the_next_server(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Bench(tmp_path, chunk_bytes=3)
        await first.start()
        first.executor.failures[2] = ValueError("broken")
        first.executor.let_go(1, 2)
        good, bad = await first.submit(1), await first.submit(2)
        events = await first.events_of(good)
        await first.ended(bad)
        await first.die()

        second = Bench(tmp_path, chunk_bytes=1000)
        await second.start()
        past = await second.find(1)
        assert past is not None
        accepted, snapshot, stored, completed = await second.events_of(past)
        assert isinstance(accepted, AcceptedEvent)
        assert isinstance(snapshot, SnapshotEvent)
        assert snapshot.job.state is JobState.SUCCEEDED
        assert [stored, completed] == events[-2:]
        last = good.log.sequence
        assert [await second.events_of(past, after=last - left) for left in (0, 1, 2)] == [
            [],
            [completed],
            [stored, completed],  # the reader has a part of the picture
        ]
        failed = await second.find(2)
        with pytest.raises(EndedJobError) as raised:
            await second.events_of(failed)  # type: ignore[arg-type]  # it is there
        assert raised.value.status == b"ValueError: broken"
        assert second.executor.begun == []
        await second.stop()

    run(scenario)


def test_a_drained_durable_server_leaves_its_jobs_to_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Bench(tmp_path)
        await first.start()
        jobs = [await first.submit(seed) for seed in (1, 2)]
        cancelled = await first.submit(3)
        first.manager.cancel(cancelled)
        await first.manager.drain(0)
        assert [job.state for job in (*jobs, cancelled)] == [JobState.QUEUED, JobState.QUEUED, JobState.CANCELLED]
        for job in jobs:
            with pytest.raises(DrainingError):
                await first.events_of(job)
        await first.archive.close()
        first.folder.close()

        second = Bench(tmp_path)
        await second.start()
        assert [job.job_id for job in second.manager.jobs] == [job.job_id for job in jobs]
        await second.stop()

    run(scenario)


def test_a_temporary_folder_goes_with_its_server() -> None:
    async def scenario() -> None:
        bench = Bench()
        path = bench.folder.path
        await bench.start()
        job = await bench.submit(1)
        await bench.manager.drain(0)
        assert job.state is JobState.CANCELLED
        await bench.archive.close()
        bench.folder.close()
        assert not path.exists()

    run(scenario)


def test_the_next_server_removes_what_a_killed_one_left_in_its_temporary_folder() -> None:
    alive, killed = DataFolder(None), DataFolder(None)
    killed.durable = True  # so that closing it leaves the files, as a kill does
    killed.close()
    assert killed.path.exists()
    DataFolder(None).close()
    assert not killed.path.exists()
    assert alive.path.exists()
    alive.close()


def test_two_servers_cannot_have_one_folder(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    with pytest.raises(DataFolderError, match="another server"):
        DataFolder(tmp_path)
    folder.close()
    DataFolder(tmp_path).close()


@pytest.mark.parametrize("damage", ["no database", "another version"])
def test_a_database_of_another_kind_is_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "jobs.sqlite3"
    if damage == "no database":
        path.write_bytes(b"something else" * 1000)
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(StoreError):
        JobStore(path, durable=True)
    assert path.read_bytes() == before


def test_orphans_of_a_kill_are_removed_and_what_is_wanted_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Bench(tmp_path)
        await first.start()
        first.executor.let_go(1)
        done, waiting = await first.submit(1), await first.submit(2)
        await first.ended(done)
        await first.die()
        kept = names(tmp_path / "inputs") | names(tmp_path / "results")
        for folder in ("inputs", "results"):
            (tmp_path / folder / ("0" * 64)).write_bytes(b"half done")
            (tmp_path / folder / "left.tmp").write_bytes(b"half done")
        (tmp_path / "checkpoints" / "nobody").write_bytes(b"")
        (tmp_path / "checkpoints" / waiting.job_id).write_bytes(b"")

        second = Bench(tmp_path)
        await second.start()
        assert names(tmp_path / "inputs") | names(tmp_path / "results") == kept
        assert len(kept) == 2
        assert names(tmp_path / "checkpoints") == {waiting.job_id}
        assert second.executor.checkpoints == [tmp_path / "checkpoints" / waiting.job_id]
        await second.stop()
        assert not names(tmp_path / "checkpoints")

    run(scenario)


def test_damaged_files(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Bench(tmp_path)
        await first.start()
        first.executor.let_go(1)
        done, waiting = await first.submit(1), await first.submit(2)
        await first.ended(done)
        await first.die()
        for folder in ("inputs", "results"):
            for path in (tmp_path / folder).iterdir():
                path.write_bytes(b"damaged")

        second = Bench(tmp_path)
        await second.start()
        assert second.executor.begun == []
        failed = await second.manager.get(waiting.job_id, "")
        assert isinstance(failed, JobRecord)
        assert failed.status.startswith(b"InputLostError")
        past = await second.find(1)
        assert isinstance(past, JobRecord)
        with pytest.raises(ResultGoneError):
            await picture(second, past)
        with pytest.raises(ResultGoneError):
            await second.events_of(past)
        await second.stop()

    run(scenario)


def test_the_same_picture_of_two_jobs_stays_until_both_are_forgotten(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, retention_bytes=len(b"picture"))
        await bench.start()
        bench.executor.let_go(1, 2)
        for seed in (1, 2):
            await bench.ended(await bench.submit(seed))
        assert len(names(tmp_path / "results")) == 1
        await bench.archive._sweep()
        assert await bench.find(1) is None
        past = await bench.find(2)
        assert isinstance(past, JobRecord)
        assert await picture(bench, past) == b"picture"
        bench.archive._retention_bytes = 0
        await bench.archive._sweep()
        assert await bench.find(2) is None
        assert not names(tmp_path / "results")
        await bench.stop()

    run(scenario)


def test_jobs_are_forgotten_by_and_by(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, retention_seconds=0.01)
        await bench.start()
        bench.executor.let_go(1)
        await bench.ended(await bench.submit(1))
        waiting = await bench.submit(2)
        while await bench.find(1) is not None:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
        assert not names(tmp_path / "results")
        assert await bench.find(2) is waiting
        await bench.stop()

    run(scenario)


def test_pictures_beyond_the_room_for_them_take_the_oldest_jobs_along(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, retention_bytes=3 * len(b"picture") + 1, capacity=9, retention_seconds=3600)
        await bench.start()
        bench.executor.let_go(*range(6))
        bench.executor.failures[0] = ValueError("makes no picture")
        for seed in range(6):
            await bench.ended(await bench.submit(seed))
        await bench.archive._sweep()
        assert [await bench.find(seed) is not None for seed in range(6)] == [True, False, False, True, True, True]
        await bench.stop()

    run(scenario)


def test_pages_and_owners(tmp_path: Path) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, capacity=20)
        await bench.start()
        bench.executor.let_go(0, 1)
        mine = [await bench.submit(seed, owner="me") for seed in range(7)]
        yours = await bench.submit(20, owner="you")
        for job in mine[:2]:
            await bench.ended(job)
        await until(lambda: mine[2].state is JobState.RUNNING)

        async def page(*states: JobState, before: int | None = None, limit: int = 3) -> list[JobRecord]:
            return list(await bench.manager.page("me", states, before=before, limit=limit))

        seen: list[JobRecord] = []
        while part := await page(before=seen[-1].number if seen else None):
            seen += part
        assert [record.job_id for record in seen] == [job.job_id for job in reversed(mine)]
        assert [record.state for record in seen] == [job.state for job in reversed(mine)]
        ended = await page(JobState.SUCCEEDED, JobState.FAILED)
        assert [record.job_id for record in ended] == [mine[1].job_id, mine[0].job_id]
        (running,) = await page(JobState.RUNNING)
        assert running.job_id == mine[2].job_id
        for job in (yours, mine[0], mine[2]):
            with pytest.raises(UnknownJobError):
                await bench.manager.get(job.job_id, "nobody")
        assert await bench.find(20, owner="me") is None
        again = await bench.submit(3, owner="you")
        assert again is not mine[3]
        await bench.stop()

    run(scenario)


async def picture(bench: Bench, record: JobRecord) -> bytes:
    outcome = record.outcome
    assert outcome is not None
    await bench.manager.check_result(outcome)
    pieces = [await bench.manager.read_result(outcome, place, 1) for place in range(outcome.size_bytes)]
    return b"".join(pieces)


def disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/a/secret/path")


def test_full_disk_refuses_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", disk_full)
            job = bench.submit_now(1)
            with pytest.raises(StorageFullError) as raised:
                await bench.events_of(job)
            assert "full" in str(raised.value)
            assert "secret" not in str(raised.value)
            assert not names(tmp_path / "inputs")
        assert await bench.find(1) is None
        bench.executor.let_go(1)
        assert isinstance((await bench.events_of(await bench.submit(1)))[-1], CompletedEvent)
        await bench.stop()

    run(scenario)


def test_full_disk_fails_a_job_that_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        job = await bench.submit(1)
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", disk_full)
            bench.executor.let_go(1)
            with pytest.raises(StorageFullError):
                await bench.events_of(job)
        assert not names(tmp_path / "results")
        past = await bench.find(1)
        assert past is not None
        assert past.state is JobState.FAILED
        bench.executor.let_go(2)
        assert isinstance((await bench.events_of(await bench.submit(2)))[-2], StoredResultEvent)
        await bench.stop()

    run(scenario)


def test_end_that_cannot_be_stored_is_known_and_stored_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        job = await bench.submit(1)
        await settle()

        async def full(_: JobStore, record: JobRecord) -> None:
            raise StorageFullError("full")

        with monkeypatch.context() as patch:
            patch.setattr(JobStore, "save", full)
            bench.executor.let_go(1)
            with pytest.raises(StorageFullError):
                await bench.events_of(job)
            for found in (await bench.find(1), await bench.manager.get(job.job_id, "")):
                assert found is not None
                assert found.state is JobState.FAILED
            (listed,) = await bench.manager.page("", (), before=None, limit=9)
            assert listed.state is JobState.FAILED
            assert not names(tmp_path / "results")
        await bench.archive._sweep()
        await bench.die()
        second = Bench(tmp_path)
        await second.start()
        assert second.executor.begun == []
        past = await second.find(1)
        assert past is not None
        assert past.state is JobState.FAILED
        await second.stop()

    run(scenario)


def test_job_of_before_waits_until_it_can_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        first = Bench(tmp_path)
        await first.start()
        running, waiting = await first.submit(1), await first.submit(2)
        await first.die()

        monkeypatch.setattr("intarsia_server.jobs.manager.TAKE_UP_SECONDS", 0.01)
        second = Bench(tmp_path)
        checkpoint = second.folder.checkpoints / running.job_id
        checkpoint.touch()

        async def full(_: JobStore, record: JobRecord) -> None:
            raise StorageFullError("full")

        with monkeypatch.context() as patch:
            patch.setattr(JobStore, "save", full)
            await second.start()
            assert not second.manager.jobs
            assert checkpoint.exists()
            found = await second.manager.get(waiting.job_id, "")
            with pytest.raises(DrainingError, match="room"):
                await second.events_of(found)
            await asyncio.sleep(0.05)
            assert second.executor.begun == []
        await until(lambda: second.executor.begun == [1] and len(second.manager.jobs) == 2)
        assert [job.epoch for job in second.manager.jobs] == [1, 1]
        await second.stop()

    run(scenario)


def test_forgetting_begins_with_the_pictures_which_a_full_database_needs_the_room_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path)
        await bench.start()
        bench.executor.let_go(1)
        await bench.ended(await bench.submit(1))
        bench.archive._retention_bytes = 0
        remove = JobStore.remove

        async def full(store: JobStore, job_ids: Collection[str]) -> None:
            if names(tmp_path / "results"):
                raise StorageFullError("full")
            await remove(store, job_ids)

        monkeypatch.setattr(JobStore, "remove", full)
        await bench.archive._sweep()
        assert await bench.find(1) is None
        await bench.stop()

    run(scenario)


def test_files_are_what_their_names_say_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FileStore(tmp_path / "files")
    name = files.put(b"content")
    assert files.put(b"content") == name
    assert (files.get(name), files.size(name)) == (b"content", 7)
    files.check(name)
    assert (files.read(name, 2, 3), files.read(name, 7, 0)) == (b"nte", b"")
    (tmp_path / "files" / name).write_bytes(b"CONTENT")
    for ask in (files.get, files.check, lambda name: files.read(name, 2, 6), lambda _: files.read("0" * 64, 0, 1)):
        with pytest.raises(KeyError):
            ask(name)
    assert files.size("0" * 64) is None
    files.remove("0" * 64)
    files.remove(name)
    with pytest.raises(KeyError):
        files.get(name)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", disk_full)
        with pytest.raises(StorageFullError):
            files.put(b"another")
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(StorageError) as raised:
            files.put(b"another")
        assert not isinstance(raised.value, StorageFullError)
    assert not names(tmp_path / "files")
