"""A real server in a process of its own, with settings of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1 import style_transfer_pb2_grpc as pb_grpc

PATIENCE = 300.0
"""Seconds that a server may take to be ready."""


@dataclass
class Server:
    """A server that runs.

    Attributes:
        process: its front process.
        address: unix:PATH, or HOST:PORT.
        log_file: what it has logged.
    """

    process: subprocess.Popen[bytes]
    address: str
    log_file: Path

    @property
    def alive(self) -> bool:
        """Whether its front process runs."""
        return self.process.poll() is None

    @property
    def memory(self) -> int:
        """Bytes that its front process holds (resident)."""
        return resident(self.process.pid)

    def wait_until_ready(self, token: str = "") -> None:
        """Waits for its workers.

        Args:
            token: to show, where the server wants one.

        Raises:
            RuntimeError: it has ended, or is not ready in time.
        """
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        deadline = time.monotonic() + PATIENCE
        with grpc.insecure_channel(self.address, options=[("grpc.max_reconnect_backoff_ms", 200)]) as channel:
            stub = pb_grpc.StyleTransferServiceStub(channel)
            while self.alive and time.monotonic() < deadline:
                with suppress(grpc.RpcError):
                    if stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=5, metadata=metadata).ready:
                        return
                time.sleep(0.1)
        raise RuntimeError(f"the server did not start:\n{self.log_file.read_text()}")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running_server(
    address: str = "", program: Sequence[str] = ("intarsia_server",), /, **settings: object
) -> Iterator[Server]:
    """Starts a server with those INTARSIA_ settings and no others; ends it and what it started.

    Args:
        address: to listen on; a Unix socket of its own when empty.
        program: the module to run and its arguments, before the server's own.
        settings: by name, without INTARSIA_, in lower case.
    """
    with tempfile.TemporaryDirectory(prefix="intarsia-") as name:
        folder = Path(name)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("INTARSIA_")}
        environment |= {f"INTARSIA_{key.upper()}": str(value) for key, value in settings.items()}
        address, log_file = address or f"unix:{folder / 'server.sock'}", folder / "server.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *program, "--address", address, "--exit-with-stdin"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield Server(process, address, log_file)
        finally:
            # The whole session: a killed server cannot end its workers itself.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
