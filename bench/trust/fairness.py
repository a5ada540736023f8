"""Two clients, one of which offers ten times as many jobs as the other: how much work each of them gets done."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1 import style_transfer_pb2_grpc as pb_grpc

from bench.report import Figure, Report
from bench.trust.options import Options
from bench.trust.samples import stylize_request
from bench.trust.server import Server, running_server

OFFERS = {"modest": 2, "greedy": 20}
"""Jobs that each client keeps in the server: the modest one has always one that waits."""

STEPS = 5
RATIO = 1.2


def run(options: Options) -> Iterator[Report]:
    """One report."""
    yield report_of(fairness(options.fairness_seconds))


def fairness(seconds: float) -> Counter[str]:
    """Jobs that each client got done in so long."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.write_text("".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in OFFERS))
        with running_server(tokens_file=tokens, queue_capacity=2 * sum(OFFERS.values()), threads=1) as server:
            server.wait_until_ready(token=next(iter(OFFERS)))
            return asyncio.run(_offer(server, seconds))


def report_of(finished: Counter[str]) -> Report:
    """Of what each got done."""
    least = min(finished[name] for name in OFFERS)
    ratio = max(finished.values()) / least if least else None
    figure = Figure(name="two clients offering 10:1: finished work", goal=RATIO, measured=ratio)
    return Report(name="fairness", figures=(figure,), facts={"finished": dict(finished), "offers": OFFERS})


async def _offer(server: Server, seconds: float) -> Counter[str]:
    finished = Counter[str]()
    request = stylize_request()
    request.masked_gram.steps = STEPS
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = pb_grpc.StyleTransferServiceStub(channel)
        # The first job of all shows what a job takes.
        await _finish(stub, request, "modest")
        end = time.monotonic() + seconds
        names = [name for name, many in OFFERS.items() for _ in range(many)]
        await asyncio.gather(*(_keep_sending(stub, request, name, end, finished) for name in names))
    return finished


async def _keep_sending(stub: Any, request: pb.StylizeRequest, name: str, end: float, finished: Counter[str]) -> None:
    while time.monotonic() < end:
        await _finish(stub, request, name)
        # What is done after the end has been without competition.
        finished[name] += time.monotonic() < end


async def _finish(stub: Any, request: pb.StylizeRequest, name: str) -> None:
    async for _ in stub.Stylize(request, metadata=(("authorization", f"Bearer {name}"),)):
        pass
