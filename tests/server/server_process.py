"""A real server in its own process, and what the tests need to see of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

SOON = 60.0
"""Seconds after which something that should have happened never will; far above what a busy machine needs."""

LONG = 3600.0
"""Seconds of a call's deadline. Well above what a job of the tests' would take that runs to its end: it is refused
where its deadline cannot be met."""

CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class ServerProcess:
    """A server that was started; its log is a file."""

    process: subprocess.Popen[bytes]
    address: str
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            yield channel

    @contextmanager
    def stub(self) -> Iterator[StyleTransferServiceStub]:
        with self.channel() as channel:
            yield StyleTransferServiceStub(channel)

    def health(self) -> int:
        with self.channel() as channel:
            request = health_pb2.HealthCheckRequest()
            stub: Any = health_pb2_grpc.HealthStub(channel)
            return int(stub.Check(request, wait_for_ready=True, timeout=LONG).status)

    def wait_for_log(self, text: str) -> None:
        eventually(lambda: self.process.poll() is not None or text in self.log, f"{text!r} in the log")
        assert text in self.log

    def wait_until_ready(self) -> None:
        self.wait_for_log("listening on")
        eventually(lambda: self.process.poll() is not None or self.health() == SERVING, "the server to be ready")
        assert self.process.poll() is None, self.log

    def workers(self) -> list[int]:
        """Process ids of its worker processes."""
        return [pid for pid in children(self.process.pid) if "spawn_main" in command_line(pid)]

    def wait_for_end(self) -> int:
        """The exit status."""
        return self.process.wait(SOON)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def running_server(*arguments: str, address: str = "", **settings: object) -> Iterator[ServerProcess]:
    """Starts a server with INTARSIA_ settings and nothing of the tests' own environment; kills what is left of it."""
    # Not tmp_path: with the test's name in it, it is too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="intarsia-"))
    address = address or f"unix:{folder / 'server.sock'}"
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "intarsia_server", "--address", address, *arguments],
            env=server_environment(folder, **settings),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    server = ServerProcess(process, address, log_file)
    try:
        yield server
    finally:
        left = children(process.pid)
        process.kill()
        process.wait()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert process.stdin is not None
        process.stdin.close()
        print(server.log)
        shutil.rmtree(folder)


def server_environment(torch_home: Path, **settings: object) -> dict[str, str]:
    """This process's environment with only those INTARSIA_ settings, and no encoder weights in torch's cache."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("INTARSIA_")}
    environment["TORCH_HOME"] = str(torch_home)
    # With more threads than free cores every step waits for the slowest of them: the tests share their machine.
    environment["INTARSIA_THREADS"] = "1"
    return environment | {f"INTARSIA_{name.upper()}": str(value) for name, value in settings.items()}


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Process ids of that process's living children."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [child for child in pids if alive(child) and _status(child)[1] == str(pid)]


def alive(pid: int) -> bool:
    """Whether any thread of the process runs; one that has ended and that nobody has reaped has none but its first."""
    try:
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return False
    return threads > 1 or _status(pid)[0] not in {"Z", "X"}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def has_loaded_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def _status(pid: int) -> tuple[str, str]:
    """State and parent of a process; ("X", "") once it is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "X", ""
    return state, parent
