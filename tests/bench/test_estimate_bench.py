"""The estimates' benchmark: its cases can be asked for, and its table says by how much they are off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from intarsia_server.rpc.requests import to_transfer_request

from bench.estimate import CASES, Case, Row, example_job, largest_memory, table, workers_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_server_takes_every_case(case: Case) -> None:
    request = to_transfer_request(example_job(case), default_encoder="embedded", encoders=("embedded",))
    assert request.parameters.method == case.method
    assert request.output.size == case.size


def test_errors() -> None:
    row = Row("job", seconds_before=5.0, seconds_after=12.0, seconds=10.0, bytes_before=3 * 2**20, bytes=2 * 2**20)
    assert row.errors == pytest.approx((-0.5, 0.2, 0.5))
    assert table([row]).splitlines()[1].split() == ["job", "10.00", "-50%", "+20%", "2", "+50%"]


def test_workers_are_found_below_a_server() -> None:
    """By what their command line says, at any depth."""
    waits = "print('ready', flush=True); input()"
    worker = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {waits!r}, '--multiprocessing-fork'])"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as server:
        try:
            assert server.stdout is not None
            # A process that has only just begun has neither its memory nor its own command line.
            assert server.stdout.readline() == b"ready\n"
            # Not all of this process: servers of other tests may run below it, too.
            (found,) = workers_of(server.pid)
            assert Path(f"/proc/{found}/cmdline").read_bytes().endswith(b"--multiprocessing-fork\0")
            assert largest_memory(found) > 2**20
        finally:
            server.communicate(b"\n")
