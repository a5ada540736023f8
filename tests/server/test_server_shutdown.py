"""The end of a server: drained, cut short, orphaned or killed, it leaves no process behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import grpc
import pytest
from server_jobs import failure_of, long_request, read_until, refusal, tiny_request
from server_process import LONG, NOT_SERVING, ServerProcess, alive, children, eventually

Start = Callable[..., ServerProcess]


@pytest.fixture
def start_watched(start_server: Start) -> Iterator[Start]:
    """Starts servers of which no process may be left at the test's end."""
    processes: list[int] = []

    def start(*arguments: str, **settings: object) -> ServerProcess:
        server = start_server(*arguments, **settings)
        server.wait_until_ready()
        processes.extend([server.process.pid, *children(server.process.pid)])
        assert len(server.workers()) == 1
        return server

    yield start
    eventually(lambda: not any(alive(pid) for pid in processes), "all processes to end")


def test_sigterm_lets_jobs_finish(start_watched: Start) -> None:
    server = start_watched(drain_seconds=LONG)
    with server.stub() as stub:
        running = stub.Stylize(tiny_request(steps=60), timeout=LONG)
        read_until(running, "progress")
        waiting = stub.Stylize(tiny_request(steps=1), timeout=LONG)
        read_until(waiting, "accepted")
        server.terminate()
        server.wait_for_log("draining")
        failure = refusal(stub, tiny_request())
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in failure.message
        assert server.health() == NOT_SERVING
        for call in (running, waiting):
            assert read_until(call, "result").image.data
            read_until(call, "completed")
    assert server.wait_for_end() == 0


def test_sigterm_without_grace_cancels_jobs(start_watched: Start) -> None:
    server = start_watched(drain_seconds=0)
    with server.stub() as stub:
        running = stub.Stylize(long_request(), timeout=LONG)
        read_until(running, "progress")
        waiting = stub.Stylize(long_request(), timeout=LONG)
        read_until(waiting, "accepted")
        server.terminate()
        for call in (running, waiting):
            assert failure_of(call).code is grpc.StatusCode.UNAVAILABLE
    assert server.wait_for_end() == 0


def test_ctrl_c_drains_too(start_watched: Start) -> None:
    server = start_watched()
    server.process.send_signal(signal.SIGINT)
    assert server.wait_for_end() == 0


def test_end_of_stdin_ends_the_server(start_watched: Start) -> None:
    server = start_watched("--exit-with-stdin")
    stdin = server.process.stdin
    assert stdin is not None
    stdin.write(b"what is written there does not matter")
    stdin.flush()
    assert server.health() != NOT_SERVING
    stdin.close()
    assert server.wait_for_end() == 0


def test_stdin_does_not_matter_otherwise(start_watched: Start) -> None:
    server = start_watched()
    assert server.process.stdin is not None
    server.process.stdin.close()
    with server.stub() as stub:
        read_until(stub.Stylize(tiny_request(steps=1), timeout=LONG), "completed")
    assert server.process.poll() is None
    server.process.kill()


def test_killed_server_takes_its_worker_along(start_watched: Start) -> None:
    server = start_watched()
    with server.stub() as stub:
        running = stub.Stylize(long_request(), timeout=LONG)
        read_until(running, "progress")
        server.process.kill()
        assert failure_of(running).code is grpc.StatusCode.UNAVAILABLE
    assert server.wait_for_end() == -signal.SIGKILL


def test_killed_server_takes_along_a_worker_that_cannot_see_it(start_watched: Start) -> None:
    """As in the middle of a long step."""
    server = start_watched()
    os.kill(server.workers()[0], signal.SIGSTOP)
    server.process.kill()
    assert server.wait_for_end() == -signal.SIGKILL


def test_sigterm_before_the_encoder_is_loaded(start_server: Start) -> None:
    server = start_server()
    server.wait_for_log("listening on")
    server.terminate()
    assert server.wait_for_end() == 0
    assert not server.workers()
