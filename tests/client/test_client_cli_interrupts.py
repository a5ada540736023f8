"""Ctrl-C at each place where it can come while a job is followed."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Script, endless_job
from intarsia import Client
from intarsia.cli.aside import Aside
from intarsia.cli.job import follow
from intarsia.request import build_request
from intarsia.v1 import style_transfer_pb2 as pb


class Interruption:
    """Raises KeyboardInterrupt between two steps of the main thread, a number of them after a job's stage began.

    Where the thread waits before it comes so far, a signal ends the wait a second later.
    """

    def __init__(self, after: int) -> None:
        self.waited = False
        self._left = after
        self._armed = False
        self._wait = threading.Timer(1, send_sigint)

    def listen(self, event: pb.StylizeResponse) -> None:
        if event.HasField("stage"):
            signal.signal(signal.SIGINT, lambda *_: self._wake())
            self._wait.start()
            self._armed = True

    def trace(self, *_: Any) -> Any:
        if self._armed:
            self._left -= 1
            if self._left < 0:
                self._end()
        return self.trace

    def _wake(self) -> None:
        self.waited = self._armed
        self._end()

    def _end(self) -> None:
        self._armed = False
        self._wait.cancel()
        raise KeyboardInterrupt


def send_sigint() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Python's own, even where the tests were started with SIGINT ignored; what there was comes back."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_wherever_it_comes_the_job_is_cancelled(serve: Callable[[Script], FakeServer], pictures: Path) -> None:
    fake = serve(endless_job)
    request = build_request("content.png", labels="labels.png", styles={0: "brush.png", 1: "keep"})
    for after in count():
        fake.ended.clear()
        interruption = Interruption(after)
        with Client(fake.address) as client:
            sys.settrace(interruption.trace)
            try:
                with pytest.raises(KeyboardInterrupt):
                    follow(client, request, [interruption.listen])
            finally:
                sys.settrace(None)
            assert fake.ended.wait(5)
        if interruption.waited:
            break
    assert after > 8  # places before the wait


def test_what_it_raises_and_returns() -> None:
    def fail() -> None:
        raise ValueError("no")

    with Aside() as aside:
        assert aside(lambda: 3) == 3
        assert aside(threading.current_thread) is not threading.current_thread()
        with pytest.raises(ValueError, match="no"):
            aside(fail)


def test_a_call_that_goes_on_keeps_nobody() -> None:
    ended = threading.Event()
    threading.Timer(0.2, send_sigint).start()
    with pytest.raises(KeyboardInterrupt), Aside() as aside:
        aside(ended.wait)
    ended.set()
