"""Uploads in their store: begun, broken off, taken up again, refused, dropped."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.jobs.files import FileStore
from intarsia_server.jobs.upload_folder import LEAST_COST, UploadFolder
from intarsia_server.jobs.uploads import (
    UploadBusyError,
    UploadLimits,
    UploadNotFoundError,
    UploadsFullError,
    UploadStore,
)

PICTURE = bytes(range(256)) * 40
SHA256 = hashlib.sha256(PICTURE).hexdigest()
LIMITS = UploadLimits(
    upload_bytes=2**20, client_bytes=2**22, total_bytes=2**23, client_unfinished=3, total_unfinished=4, seconds=60
)


class Clock:
    """Stands still until a test moves it."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """A store in a folder, and what a test needs to see of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.limits = LIMITS

    @property
    def files(self) -> FileStore:
        return FileStore(self.folder / "complete")

    def store(self) -> UploadStore:
        return UploadStore(self.folder / "unfinished", self.files, self.limits, clock=self.clock)

    def left(self) -> list[str]:
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def send(
    store: UploadStore,
    data: bytes = PICTURE,
    upload_id: str = "one",
    *,
    owner: str = "ann",
    client: str = "",
    whole: bytes = b"",
    offset: int = 0,
) -> bool:
    """Sends those bytes of a picture, which they are the whole of unless it is given; says whether it is complete."""
    whole = whole or data
    sha256 = hashlib.sha256(whole).hexdigest()
    async with store.writing(upload_id, owner=owner, client=client or owner, size=len(whole), sha256=sha256) as upload:
        for begin in range(0, len(data), 1000):
            if not upload.complete:
                await store.append(upload, offset + begin, data[begin : begin + 1000])
        return upload.complete


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_whole(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        assert await send(store)
        assert await store.read("one", "ann") == PICTURE
        assert store.find("one", "ann").received == len(PICTURE)
        assert scene.files.get(SHA256) == PICTURE
        assert not list((scene.folder / "unfinished").glob("*.part"))

    run(test)


@pytest.mark.parametrize("cut", [1, 999, 1000, 1001, len(PICTURE) - 1])
@pytest.mark.parametrize("restart", [False, True])
def test_taken_up_again(scene: Scene, cut: int, restart: bool) -> None:
    async def test() -> None:
        store = scene.store()
        assert not await send(store, PICTURE[:cut], whole=PICTURE)
        if restart:
            scene.clock.now = (scene.folder / "unfinished").stat().st_mtime
            store = scene.store()
        assert store.find("one", "ann").received == cut
        with pytest.raises(UploadNotFoundError, match=f"{cut} of {len(PICTURE)} bytes"):
            await store.read("one", "ann")
        assert await send(store, PICTURE[cut:], whole=PICTURE, offset=cut)
        assert await store.read("one", "ann") == PICTURE

    run(test)


def test_complete_after_a_restart(scene: Scene) -> None:
    async def test() -> None:
        await send(scene.store())
        scene.clock.now = (scene.folder / "unfinished").stat().st_mtime
        assert await scene.store().read("one", "ann") == PICTURE

    run(test)


def test_a_restart_removes_what_belongs_to_nothing(scene: Scene) -> None:
    async def test() -> None:
        await send(scene.store(), PICTURE[:10], whole=PICTURE)
        before = scene.left()
        for name in ("x.part", "x.json", "x.new"):
            (scene.folder / "unfinished" / name).write_text("{}")
        scene.store()
        assert scene.left() == before

    run(test)


@pytest.mark.parametrize("offset", [0, 999, 1001, 2**63])
def test_wrong_offset(scene: Scene, offset: int) -> None:
    async def test() -> None:
        store = scene.store()
        await send(store, PICTURE[:1000], whole=PICTURE)
        with pytest.raises(InvalidInputError) as raised:
            await send(store, PICTURE[1000:], whole=PICTURE, offset=offset)
        assert raised.value.field == "offset"
        assert await send(store, PICTURE[1000:], whole=PICTURE, offset=1000)

    run(test)


def test_wrong_hash_drops_the_bytes(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        with pytest.raises(InvalidInputError) as raised:
            await send(store, PICTURE[::-1], whole=PICTURE)
        assert raised.value.field == "sha256"
        assert not scene.left()
        assert await send(store)

    run(test)


def test_bytes_past_the_end(scene: Scene) -> None:
    async def test() -> None:
        with pytest.raises(InvalidInputError) as raised:
            await send(scene.store(), PICTURE, whole=PICTURE[:-1])
        assert raised.value.field == "data"

    run(test)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"upload_id": ""}, "upload_id"),
        ({"upload_id": "../one"}, "upload_id"),
        ({"upload_id": "x" * 65}, "upload_id"),
        ({"upload_id": "one\n"}, "upload_id"),
        ({"size": 0}, "size_bytes"),
        ({"size": 2**20 + 1}, "size_bytes"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "g" * 64}, "sha256"),
    ],
)
def test_refused_at_once(scene: Scene, given: dict[str, Any], field: str) -> None:
    async def test() -> None:
        good = {"upload_id": "one", "owner": "ann", "client": "ann", "size": 10, "sha256": SHA256}
        with pytest.raises(InvalidInputError) as raised:
            async with scene.store().writing(**good | given):
                pass
        assert raised.value.field == field
        assert not scene.left()

    run(test)


@pytest.mark.parametrize(("whole", "field"), [(PICTURE + b"x", "size_bytes"), (PICTURE[::-1], "sha256")])
def test_an_id_stands_for_one_picture(scene: Scene, whole: bytes, field: str) -> None:
    async def test() -> None:
        store = scene.store()
        await send(store, PICTURE[:10], whole=PICTURE)
        with pytest.raises(InvalidInputError) as raised:
            await send(store, b"x", whole=whole)
        assert raised.value.field == field

    run(test)


def test_nobody_else_sees_it(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        await send(store)
        with pytest.raises(UploadNotFoundError):
            store.find("one", "bob")
        with pytest.raises(UploadNotFoundError):
            await store.read("one", "bob")
        other = PICTURE[::-1]
        assert await send(store, other, owner="bob")
        assert await store.read("one", "bob") == other
        assert await store.read("one", "ann") == PICTURE

    run(test)


def test_the_same_picture_is_complete_at_once_for_its_owner_alone(scene: Scene) -> None:
    """Else whoever knows a picture's hash could have the picture."""

    async def test() -> None:
        store = scene.store()
        await send(store)
        assert await send(store, b"", "two", whole=PICTURE)
        assert not await send(store, b"", "two", whole=PICTURE, owner="bob")
        assert await store.read("two", "ann") == PICTURE
        assert await send(store, b"", "one", whole=PICTURE)

    run(test)


def test_two_at_once(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        own = {"owner": "ann", "client": "ann", "size": len(PICTURE), "sha256": SHA256}
        async with store.writing("one", **own) as upload:
            await store.append(upload, 0, PICTURE[:10])
            with pytest.raises(UploadBusyError):
                await send(store, PICTURE[10:], whole=PICTURE, offset=10)
            assert await send(store, PICTURE, "two")
        assert await send(store, PICTURE[10:], whole=PICTURE, offset=10)

    run(test)


def test_two_begin_at_once(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        ends = await asyncio.gather(*(send(store) for _ in range(8)), return_exceptions=True)
        assert ends.count(True) == 1
        assert all(end is True or isinstance(end, UploadBusyError) for end in ends)
        assert await store.read("one", "ann") == PICTURE

    run(test)


def test_cancelled_while_it_begins(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not stay busy for ever."""

    async def test() -> None:
        store = scene.store()
        keep, began = UploadFolder.keep, asyncio.Event()
        loop = asyncio.get_running_loop()

        def told(*args: Any) -> None:
            loop.call_soon_threadsafe(began.set)
            keep(*args)

        monkeypatch.setattr(UploadFolder, "keep", told)
        first = asyncio.create_task(send(store))
        await began.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await send(store)

    run(test)


def test_a_cancelled_call_leaves_a_whole_state(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last write ends before anybody else may write."""

    async def test() -> None:
        store = scene.store()
        write, began, go_on = UploadFolder.append, asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def slow(*args: Any) -> None:
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            write(*args)

        monkeypatch.setattr(UploadFolder, "append", slow)
        first = asyncio.create_task(send(store, PICTURE[:1000], whole=PICTURE))
        await began.wait()
        first.cancel()
        await asyncio.sleep(0.05)
        with pytest.raises(UploadBusyError):
            await send(store, PICTURE, whole=PICTURE)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        received = store.find("one", "ann").received
        assert received == 1000
        assert await send(store, PICTURE[received:], whole=PICTURE, offset=received)

    run(test)


def test_dropped_when_nobody_uses_it(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        await send(store)
        await send(store, PICTURE[1:10], "two", whole=PICTURE[1:])
        scene.clock.now += 40
        await store.read("one", "ann")
        scene.clock.now += 40
        with pytest.raises(UploadNotFoundError):
            store.find("two", "ann")
        await store.drop_unused()
        assert await store.read("one", "ann") == PICTURE
        scene.clock.now += 60
        await store.drop_unused()
        assert not scene.left()
        assert await send(store)

    run(test)


def test_a_shared_file_goes_with_its_last_upload(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        await send(store)
        scene.clock.now += 40
        await send(store, b"", "two", whole=PICTURE)
        await send(store, owner="bob")
        scene.clock.now += 40
        await store.drop_unused()
        assert await store.read("two", "ann") == await store.read("one", "bob") == PICTURE
        scene.clock.now += 80
        await store.drop_unused()
        assert not scene.left()

    run(test)


def test_unfinished_uploads_are_limited(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        for name in "abc":
            await send(store, PICTURE[:1], name, whole=PICTURE)
        with pytest.raises(UploadsFullError) as raised:
            await send(store, b"x", "d", whole=PICTURE)
        assert raised.value.retry_seconds > 0
        assert await send(store, PICTURE[1:], "a", whole=PICTURE, offset=1)
        await send(store, b"x", "d", whole=PICTURE[1:])
        await send(store, b"x", "a", whole=PICTURE, owner="bob")
        with pytest.raises(UploadsFullError, match="in all"):
            await send(store, b"x", "b", whole=PICTURE, owner="bob")

    run(test)


def test_bytes_of_a_client_and_of_all_are_limited(scene: Scene) -> None:
    scene.limits = replace(LIMITS, client_bytes=2 * LEAST_COST, total_bytes=3 * LEAST_COST)

    async def test() -> None:
        store = scene.store()
        for name in "ab":
            await send(store, name.encode(), name)
        with pytest.raises(UploadsFullError, match="this client's"):
            await send(store, b"c", "c")
        await send(store, b"d", "d", owner="bob")
        with pytest.raises(UploadsFullError, match="all uploads"):
            await send(store, b"e", "e", owner="bob")

    run(test)


def test_an_upload_that_has_served_makes_room(scene: Scene) -> None:
    scene.limits = replace(LIMITS, client_bytes=2 * LEAST_COST)

    async def test() -> None:
        store = scene.store()
        for name in "ab":
            await send(store, name.encode(), name)
            scene.clock.now += 1
        await store.read("b", "ann")
        assert await send(store, b"c", "c")
        assert await store.read("a", "ann") == b"a"
        with pytest.raises(UploadNotFoundError):
            store.find("b", "ann")
        assert scene.files.size(hashlib.sha256(b"b").hexdigest()) is None

    run(test)


@pytest.mark.parametrize("place", ["append", "flushed_hash"])
def test_full_disk(scene: Scene, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test() -> None:
        store = scene.store()
        await send(store, PICTURE[:1000], whole=PICTURE)
        with monkeypatch.context() as patch:
            patch.setattr(UploadFolder, place, full)
            with pytest.raises(UploadsFullError, match="disk is full"):
                await send(store, PICTURE[1000:], whole=PICTURE, offset=1000)
        assert not scene.left()
        assert await send(store)

    run(test)


def test_disk_too_full_for_a_record(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test() -> None:
        store = scene.store()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", full)
            with pytest.raises(UploadsFullError, match="disk is full"):
                await send(store)
        assert not scene.left()
        assert await send(store)

    run(test)


def test_a_damaged_file_is_not_served(scene: Scene) -> None:
    async def test() -> None:
        store = scene.store()
        await send(store)
        await send(store, b"", "two", whole=PICTURE)
        (scene.folder / "complete" / SHA256).write_bytes(PICTURE[::-1])
        with pytest.raises(UploadNotFoundError, match="lost"):
            await store.read("one", "ann")
        assert await send(store)
        assert await store.read("one", "ann") == PICTURE

    run(test)
