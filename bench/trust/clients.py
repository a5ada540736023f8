"""How soon the worker of a client that is gone is free again: killed, swallowed by the network, or frozen."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.report import Figure, Report
from bench.trust.options import Options
from bench.trust.proxy import FaultProxy
from bench.trust.samples import stylize_request
from bench.trust.server import running_server
from bench.trust.victim import Victim, victim

STEPS = 10_000
"""Of a job that outlives its client."""

ACTIVE = (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING)

GIVE_UP = 90.0
"""Seconds after which a slot that is not free is taken to stay so."""


def run(options: Options) -> Iterator[Report]:
    """Kills clients one after the other, then silences several at a time."""
    with running_server(threads=1) as server, grpc.insecure_channel(server.address) as channel:
        server.wait_until_ready()
        stub = StyleTransferServiceStub(channel)
        killed = [killed_client(server.address, stub) for _ in range(options.kills)]
        silenced = _silenced(server.address, stub)
    about = f"client killed: slot free, slowest of {options.kills}"
    figures = [Figure(name=about, goal=1, measured=max(killed), unit="s")]
    for what, seconds in silenced.items():
        figures.append(Figure(name=f"client {what}: slot free", goal=45, measured=seconds, unit="s"))
    yield Report(name="clients", figures=figures, facts={"killed_seconds": killed, "silenced_seconds": silenced})


def killed_client(address: str, stub: StyleTransferServiceStub) -> float:
    """Seconds from a kill -9 of the client whose job runs to the begin of the next client's job."""
    with victim(address, STEPS) as client:
        client.wait_for_begin()
        following = stub.Stylize(stylize_request())
        next(following)
        client.process.kill()
        began = time.monotonic()
        for event in following:
            if event.HasField("stage"):
                seconds = time.monotonic() - began
    return seconds


def _silenced(address: str, stub: StyleTransferServiceStub) -> dict[str, float]:
    """Seconds from a client's silence to the end of its job, of several at once."""
    with ExitStack() as stack:
        swallowed = stack.enter_context(FaultProxy(address)), stack.enter_context(FaultProxy(address))
        running = stack.enter_context(victim(swallowed[0].address, STEPS))
        running.wait_for_begin()
        waiting = stack.enter_context(victim(swallowed[1].address, STEPS))
        frozen = stack.enter_context(victim(address, STEPS))
        clients = {"blackholed, its job running": running, "blackholed, its job waiting": waiting, "frozen": frozen}
        for proxy in swallowed:
            proxy.blackhole()
        frozen.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with ThreadPoolExecutor(len(clients)) as pool:
            ends = pool.map(lambda client: _end_of(client, stub) - began, clients.values())
            return dict(zip(clients, ends, strict=True))


def _end_of(client: Victim, stub: StyleTransferServiceStub) -> float:
    """When its job has ended, in monotonic seconds."""
    deadline = time.monotonic() + GIVE_UP
    question = pb.GetJobRequest(job_id=client.job_id)
    while stub.GetJob(question).job.state in ACTIVE and time.monotonic() < deadline:
        time.sleep(0.05)
    return time.monotonic()
