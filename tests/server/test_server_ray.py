"""A real server whose workers are actors of a Ray cluster of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import read_until, run_job, tiny_request
from server_process import LONG, ServerProcess, alive, children, command_line, eventually, has_loaded_torch

JOBS, SEEDS = 20, 4


def a_request(seed: int, steps: int = 8) -> pb.StylizeRequest:
    request = tiny_request(steps=steps, coarse_steps=0)
    request.optimization.start = pb.START_NOISE
    request.seed = seed
    return request


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def actors(server: ServerProcess) -> list[int]:
    return [pid for pid in descendants(server.process.pid) if command_line(pid).startswith("ray::WorkerActor")]


def test_twenty_jobs_and_a_killed_actor(
    stub: StyleTransferServiceStub,
    start_server: Callable[..., ServerProcess],
    short_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMPDIR", str(short_folder))
    expected = [run_job(stub, a_request(seed)).image for seed in range(SEEDS)]
    assert len(set(expected)) == SEEDS
    server = start_server(executor="ray", devices='["cpu", "cpu"]', queue_capacity=JOBS, checkpoint_seconds=0.1)
    server.wait_until_ready()
    assert not has_loaded_torch(server.process.pid)
    assert len(actors(server)) == 2

    with server.stub() as ray_stub, ThreadPoolExecutor(JOBS) as callers:
        jobs = [callers.submit(run_job, ray_stub, a_request(number % SEEDS)) for number in range(JOBS)]
        eventually(lambda: sum(job.done() for job in jobs) >= JOBS // 4, "some jobs to be done")
        job = ray_stub.Stylize(a_request(0, steps=60), timeout=LONG)
        killed, _ = actors(server)
        os.kill(killed, signal.SIGKILL)
        assert [job.result().image for job in jobs] == [expected[number % SEEDS] for number in range(JOBS)]
        read_until(job, "completed")
    assert "worker process for cpu died; starting another" in server.log
    eventually(lambda: len(actors(server)) == 2, "another actor")
    assert killed not in actors(server)

    left = list(descendants(server.process.pid))
    server.terminate()
    assert server.wait_for_end() == 0
    assert server.log.rstrip().endswith("stopped")
    for pid in left:
        eventually(lambda pid=pid: not alive(pid), "a process of the cluster to end")  # type: ignore[misc]
    assert not list(short_folder.iterdir())


def test_ray_is_not_installed(
    start_server: Callable[..., ServerProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('it is not here')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    server = start_server(executor="ray")
    assert server.wait_for_end() == 1
    assert "pip install 'intarsia[server,ray]'" in server.log
    assert "Traceback" not in server.log
