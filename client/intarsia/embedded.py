"""A private server for one program: on a Unix socket, ending when the program ends."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from intarsia.errors import IntarsiaError

__all__ = ["EmbeddedServer", "require_server_packages"]

_SERVER_PACKAGES = ("intarsia_server", "torch", "numpy", "cv2", "pydantic_settings", "grpc_health", "prometheus_client")
_SOCKET_PATH_LIMIT = 100  # bytes; the kernels' own are 104 and 108
# What this environment says about a server that stays is not for this one: whoever may open its socket's folder may
# enter, and two servers cannot have one data folder.
_OF_OTHERS = (
    "INTARSIA_DATA_DIR",
    "INTARSIA_TLS_CERTIFICATE",
    "INTARSIA_TLS_KEY",
    "INTARSIA_TLS_CLIENT_CA",
    "INTARSIA_TOKENS_FILE",
    "INTARSIA_METRICS_ADDRESS",
)
_LOG = "server.log"
_LOG_LINES = 15


def require_server_packages() -> None:
    """Checks that the server can be started here, without importing it.

    Raises:
        IntarsiaError: FAILED_PRECONDITION, saying in one line what to do.
    """
    missing = [name for name in _SERVER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        message = (
            f"the server is not installed here ({', '.join(missing)} missing): "
            "pip install 'intarsia[server]', or name a running one with --server"
        )
        raise IntarsiaError(grpc.StatusCode.FAILED_PRECONDITION, message)


class EmbeddedServer:
    """Runs `python -m intarsia_server` as a child process for as long as a `with` block lasts.

    The child watches a pipe from this process: should this process be killed, the pipe closes and the child ends.

    Args:
        start_timeout: Seconds that the server may take until it accepts connections. Importing torch from a cold disk
            takes a while.

    Attributes:
        address: "unix:PATH", once started.
    """

    def __init__(self, start_timeout: float = 120) -> None:
        self.address = ""
        self._start_timeout = start_timeout
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()  # `stop` may come while another thread starts

    def start(self) -> None:
        """Starts the server and waits until it accepts connections.

        Raises:
            IntarsiaError: The server is not installed, or did not come up: with the last lines of its log.
        """
        require_server_packages()
        with self._lock:
            if self._stopped:
                raise IntarsiaError(grpc.StatusCode.CANCELLED, "the embedded server was stopped before it had started")
            self._folder = _short_folder()
            path = self._folder / "server.sock"
            self.address = f"unix:{path}"
            process = self._process = self._launch(self._folder)
        deadline = time.monotonic() + self._start_timeout
        while not _accepts(path):
            if process.poll() is not None:
                raise self._failure(f"the embedded server ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(f"the embedded server was not up within {self._start_timeout:g} s")
            time.sleep(0.05)

    def stop(self, grace: float = 10) -> None:
        """Ends the server, by force after `grace` seconds, and removes what it left; without effect if none runs."""
        with self._lock:
            self._stopped = True
            process, self._process = self._process, None
            folder, self._folder = self._folder, None
        if process is not None:
            _end(process, grace)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def log_tail(self) -> str:
        """Returns the last lines of the server's log; empty when there is none."""
        try:
            text = (self._folder or Path()).joinpath(_LOG).read_text(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_LOG_LINES:])

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "intarsia_server", "--address", self.address, "--exit-with-stdin"]
        environment = {name: value for name, value in os.environ.items() if name not in _OF_OTHERS}
        with (folder / _LOG).open("wb") as log:
            # A session of its own: Ctrl-C is for this process to handle.
            return subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def _failure(self, message: str) -> IntarsiaError:
        log = self.log_tail()
        return IntarsiaError(grpc.StatusCode.UNAVAILABLE, f"{message}; its log ends:\n{log}" if log else message)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _short_folder() -> Path:
    """Makes a fresh folder, readable by this user only, whose path leaves room for a socket's name."""
    folder = Path(tempfile.mkdtemp(prefix="intarsia-"))
    if len(os.fsencode(folder / "server.sock")) <= _SOCKET_PATH_LIMIT:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="intarsia-", dir="/tmp"))


def _accepts(path: Path) -> bool:
    # A plain socket, not a gRPC channel: a channel waits longer after every refusal.
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _end(process: subprocess.Popen[bytes], grace: float) -> None:
    process.terminate()
    if process.stdin is not None:
        process.stdin.close()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    finally:
        # The whole session: a killed server cannot end its workers itself.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
