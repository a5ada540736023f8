"""What a job loses to a crowd that watches it, and what the front process has to remember for it."""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.report import Figure, Report
from bench.trust.crowd import crowd
from bench.trust.options import Options
from bench.trust.samples import stylize_request
from bench.trust.server import Server, running_server

STEPS = {300: 60, 64: 400}
"""Of a job of that side in pixels: of the paper's size, and one whose steps are as short as can be."""

PREVIEW_INTERVAL = 20

MOST_SLOWDOWN = 0.02
MOST_GROWTH = 100.0
"""MB for the whole crowd: what gRPC needs for a connection, and the newest events of one job."""

SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Run:
    """One job.

    Attributes:
        seconds: from its begin to its end, on a worker.
        growth: bytes that the front process held more at most, meanwhile.
        seen: watchers that have seen it succeed.
    """

    seconds: float
    growth: int
    seen: int


def run(options: Options) -> Iterator[Report]:
    """The same job in alternate order with and without a crowd."""
    with running_server(threads=1) as server, grpc.insecure_channel(server.address) as channel:
        server.wait_until_ready()
        stub = StyleTransferServiceStub(channel)
        for side in STEPS:
            yield _report(server, stub, side, options)


def _report(server: Server, stub: StyleTransferServiceStub, side: int, options: Options) -> Report:
    slow = options.watchers // 10
    _run(server, stub, side, options.watchers, slow)  # warms up
    alone, watched = [], []
    for _ in range(options.rounds):
        alone.append(_run(server, stub, side, 0, 0))
        watched.append(_run(server, stub, side, options.watchers, slow))
    seconds = {name: [each.seconds for each in runs] for name, runs in (("alone", alone), ("watched", watched))}
    slowdown = statistics.median(seconds["watched"]) / statistics.median(seconds["alone"]) - 1
    growth = max(each.growth for each in watched) / 1e6
    missed = sum(options.watchers - slow - each.seen for each in watched)
    rate = STEPS[side] / statistics.median(seconds["alone"])
    about = f"{options.watchers} watchers, {slow} of them slow, {side} px, {rate:.0f} steps a second"
    figures = [
        Figure(name=f"{about}: share by which the job slows", goal=MOST_SLOWDOWN, measured=slowdown),
        Figure(name=f"{about}: memory growth (MB)", goal=MOST_GROWTH, measured=growth),
        Figure(name=f"{about}: others that did not see the job's end", goal=0, measured=missed),
    ]
    facts = {"seconds": seconds, "growth_bytes": [each.growth for each in watched]}
    return Report(name=f"watchers-{side}", figures=figures, facts=facts)


def _run(server: Server, stub: StyleTransferServiceStub, side: int, watchers: int, slow: int) -> Run:
    """One job; it waits until all watchers are there."""
    before = stub.Stylize(_job(64, 10_000))
    next(before)
    job_id = next(stub.Stylize(_job(side, STEPS[side], pb.ON_DISCONNECT_DETACH))).accepted.job_id
    held = server.memory
    with ExitStack() as stack:
        there = stack.enter_context(crowd(server.address, job_id, watchers - slow, slow)) if watchers else None
        peak = stack.enter_context(_peak(server))
        before.cancel()
        while not (job := stub.GetJob(pb.GetJobRequest(job_id=job_id)).job).HasField("end_time"):
            time.sleep(SAMPLE_SECONDS)
        seen = int(there.line() or 0) if there else 0
    seconds = (job.end_time.ToNanoseconds() - job.start_time.ToNanoseconds()) / 1e9
    return Run(seconds, max(peak) - held, seen)


@contextmanager
def _peak(server: Server) -> Iterator[list[int]]:
    """Bytes that the front process holds, again and again."""
    samples, ended = [server.memory], threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append(server.memory)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _job(
    side: int, steps: int, on_disconnect: pb.OnDisconnect.ValueType = pb.ON_DISCONNECT_CANCEL
) -> pb.StylizeRequest:
    request = stylize_request()
    request.request_id = str(uuid.uuid4())
    request.on_disconnect = on_disconnect
    request.output.size = side
    request.masked_gram.steps = steps
    request.preview_interval = PREVIEW_INTERVAL
    return request
