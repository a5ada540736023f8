"""Checks of pictures before a job is queued: they stop when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from intarsia_server.engine.cancel import poll
from intarsia_server.engine.label_finder import Tools
from intarsia_server.jobs.errors import DrainingError
from intarsia_server.jobs.files import FileStore
from intarsia_server.jobs.uploads import UploadLimits, UploadStore
from intarsia_server.rpc.servicer import StyleTransferServicer
from intarsia_server.settings import Settings
from job_bench import Bench
from scripted_executor import transfer_request
from server_process import LONG

Stop = Callable[[StyleTransferServicer, asyncio.Task[object]], object]


class EndlessCheck:
    """Goes on until it is cancelled."""

    def __init__(self) -> None:
        self.began, self.ended = threading.Event(), threading.Event()

    def __call__(self, tools: Tools) -> tuple[int, int]:
        self.began.set()
        pause = threading.Event()
        try:
            while True:
                poll(tools.cancelled)
                pause.wait(0.001)
        finally:
            self.ended.set()


@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (lambda _, task: task.cancel(), asyncio.CancelledError),
        (lambda servicer, _: servicer.cancel_checks(), DrainingError),
    ],
    ids=["the call ends", "the server drains"],
)
def test_a_check_stops(tmp_path: Path, stop: Stop, error: type[BaseException]) -> None:
    async def scenario() -> None:
        bench, check = Bench(), EndlessCheck()
        await bench.start()
        limits = UploadLimits(
            upload_bytes=1, client_bytes=1, total_bytes=1, client_unfinished=1, total_unfinished=1, seconds=1
        )
        uploads = UploadStore(tmp_path / "unfinished", FileStore(tmp_path / "complete"), limits)
        servicer = StyleTransferServicer(bench.manager, bench.executor, uploads, Settings())
        with bench.manager.admit("client") as place:
            submit = servicer._submit(transfer_request(1), place, "id", "", check, deadline=None)
            task: asyncio.Task[object] = asyncio.create_task(submit)
        assert await asyncio.to_thread(check.began.wait, LONG)
        stop(servicer, task)
        with pytest.raises(error):
            await task
        assert await asyncio.to_thread(check.ended.wait, LONG)
        await bench.stop()

    asyncio.run(scenario())
