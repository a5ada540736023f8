"""A client in a process of its own, for harm to be done to: `python -m bench.trust.victim ADDRESS STEPS`.

It prints its job's id, and another line once the job has begun; then it listens until the job ends.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from intarsia import Client

from bench.trust.samples import stylize_request


@dataclass
class Victim:
    """Such a process, as the one that started it sees it."""

    process: subprocess.Popen[str]
    job_id: str

    def wait_for_begin(self) -> None:
        """Waits until its job has begun."""
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError("a client ended before its job")
        return line


@contextmanager
def victim(address: str, steps: int) -> Iterator[Victim]:
    """Starts one and waits until its job is accepted; kills what is left of it."""
    command = [sys.executable, "-m", "bench.trust.victim", address, str(steps)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        client = Victim(process, "")
        client.job_id = client._line()
        yield client
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def main(address: str, steps: int) -> None:
    """Runs one job."""
    request = stylize_request()
    request.masked_gram.steps = steps
    with Client(address) as client:
        for event in client.start(request):
            match event.WhichOneof("event"):
                case "accepted":
                    print(event.accepted.job_id, flush=True)
                case "stage":
                    print("begun", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
