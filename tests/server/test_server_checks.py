"""Checks of pictures before a job is queued: they stop when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from intarsia_server.engine.cancel import poll
from intarsia_server.engine.label_finder import Tools
from intarsia_server.jobs.admission import Limits
from intarsia_server.jobs.manager import DrainingError, JobManager
from intarsia_server.rpc.callers import Caller
from intarsia_server.rpc.servicer import StyleTransferServicer
from intarsia_server.settings import Settings
from scripted_executor import ScriptedExecutor, transfer_request
from server_process import LONG

Stop = Callable[[StyleTransferServicer, asyncio.Task[object]], object]


CALLER = Caller("client", "")


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
def test_a_check_stops(stop: Stop, error: type[BaseException]) -> None:
    async def scenario() -> None:
        executor, check = ScriptedExecutor(), EndlessCheck()
        servicer = StyleTransferServicer(JobManager(executor, limits=Limits(waiting=1)), executor, Settings())
        task: asyncio.Task[object] = asyncio.create_task(servicer._submit(transfer_request(1), "id", CALLER, check))
        assert await asyncio.to_thread(check.began.wait, LONG)
        stop(servicer, task)
        with pytest.raises(error):
            await task
        assert await asyncio.to_thread(check.ended.wait, LONG)

    asyncio.run(scenario())
