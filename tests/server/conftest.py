"""Fixtures of the server's tests: real servers, each in its own process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_process import ServerProcess, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server with default settings but for the size of a message; it must end well when it is told to."""
    with running_server(max_message_bytes=4 * 2**20) as server:
        server.wait_until_ready()
        yield server
        server.terminate()
        assert server.wait_for_end() == 0
        assert server.log.rstrip().endswith("stopped")


@pytest.fixture(scope="session")
def stub(server: ServerProcess) -> Iterator[StyleTransferServiceStub]:
    with server.stub() as stub:
        yield stub


@pytest.fixture(scope="session")
def narrow_server() -> Iterator[ServerProcess]:
    """A server with room for two waiting jobs, quick heartbeats, small result chunks and small pictures."""
    with running_server(
        queue_capacity=2, heartbeat_seconds=0.2, result_chunk_bytes=1024, max_pixels=200 * 200
    ) as server:
        server.wait_until_ready()
        yield server
        server.terminate()
        assert server.wait_for_end() == 0


@pytest.fixture(scope="session")
def narrow(narrow_server: ServerProcess) -> Iterator[StyleTransferServiceStub]:
    with narrow_server.stub() as stub:
        yield stub


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers of the test's own; what is left of them ends with the test."""
    with ExitStack() as stack:

        def start(*arguments: str, **settings: object) -> ServerProcess:
            return stack.enter_context(running_server(*arguments, **settings))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Not tmp_path: with the test's name in it, it is too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="intarsia-") as folder:
        yield Path(folder)
