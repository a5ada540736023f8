"""A server that is killed or told to end, and starts again at the same address with the same data."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import TimeoutExpired

from bench.estimate import workers_of
from bench.trust.server import Server, running_server


class LastingServer:
    """Servers one after the other, with one address and one data directory.

    Args:
        folder: for both.
        settings: of all of them, as of `running_server`.

    Attributes:
        address: to connect to, whichever runs.
        server: the one that was started last.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.address = f"unix:{folder / 'server.sock'}"
        self._settings = {"data_dir": folder / "data", "threads": 1} | settings
        self._last = ExitStack()
        self.start()

    def start(self) -> None:
        """Starts another and waits for it; what is left of the one before goes on meanwhile, as it would."""
        with ExitStack() as starting:
            self.server: Server = starting.enter_context(running_server(self.address, **self._settings))
            self.server.wait_until_ready()
            self._last.close()
            self._last = starting.pop_all()

    @property
    def worker(self) -> int | None:
        """Its worker's process id; None while there is none."""
        return next(iter(workers_of(self.server.process.pid)), None)

    def kill(self) -> None:
        """With SIGKILL: its worker has to notice by itself."""
        self.server.process.kill()
        self.server.process.wait()

    def kill_worker(self) -> None:
        """With SIGKILL, if there is one."""
        if (worker := self.worker) is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)

    def terminate(self, seconds: float) -> int | None:
        """With SIGTERM; the exit code, or None if it has not ended within so many seconds."""
        self.server.process.send_signal(signal.SIGTERM)
        with suppress(TimeoutExpired):
            return self.server.process.wait(seconds)
        return None

    def close(self) -> None:
        """Ends what runs."""
        self._last.close()


@contextmanager
def lasting_server(**settings: object) -> Iterator[LastingServer]:
    """A first server, with one thread for its worker unless told otherwise."""
    with tempfile.TemporaryDirectory(prefix="intarsia-") as folder:
        server = LastingServer(Path(folder), **settings)
        try:
            yield server
        finally:
            server.close()
