"""Ten times as many callers as the queue has places for: what becomes of those that are let in, and of all others.

Each caller sends its job, and again a moment after it was refused or served. Twice: with small pictures only, and
beside callers with large ones, which have to be decoded before their job is queued.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image

from bench.report import Figure, Report
from bench.trust.options import Options
from bench.trust.samples import encoded, labels, photo, stylize_request
from bench.trust.server import Server, running_server

STYLIZE = "/intarsia.v1.StyleTransferService/Stylize"

PLACES = 8
CALLERS = 10 * PLACES
LARGE_CALLERS = CALLERS // 10
LARGE = (3000, 2000)
"""Pixels of a large picture."""

STEPS = 5
PAUSE = 0.5
"""Seconds between a caller's calls, on average."""

ANSWER_SECONDS = 0.05
SETTINGS = {"queue_capacity": PLACES, "threads": 1}


@dataclass
class Answers:
    """What callers were told.

    Attributes:
        refused: seconds from each call to its refusal.
        accepted: seconds from each call to its job's first event.
        finished: jobs whose picture came.
        statuses: how many calls ended with each; that of a job that was accepted counts as well.
        defects: refusals without a type or a hint, and jobs that were accepted and did not finish.
        lags: seconds that this process itself was late, at regular moments.
    """

    refused: list[float] = field(default_factory=list)
    accepted: list[float] = field(default_factory=list)
    finished: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)


def run(options: Options) -> Iterator[Report]:
    """One report for small pictures, one for large ones among them."""
    for name, large_callers in (("overload", 0), ("overload-large", LARGE_CALLERS)):
        yield report_of(name, overload(options.overload_seconds, large_callers=large_callers, seed=options.seed))


def overload(seconds: float, *, large_callers: int, seed: int) -> Answers:
    """Keeps a server of its own overloaded for so long, and waits for what it has taken."""
    with running_server(**SETTINGS) as server:
        server.wait_until_ready()
        return asyncio.run(_overload(server, seconds, large_callers, seed))


def report_of(name: str, answers: Answers) -> Report:
    """Of one load."""
    about = "10x the queue" + (" with large pictures" if name.endswith("large") else "")
    figures = (
        Figure(name=f"{about}: p99 of refusals", goal=ANSWER_SECONDS, measured=_share(answers.refused, 0.99), unit="s"),
        Figure(name=f"{about}: without hint, or unfinished", goal=0, measured=len(answers.defects)),
        Figure(name=f"{about}: accepted jobs that finished", goal=1, measured=answers.finished, at_least=True),
    )
    facts = {
        "refusals": len(answers.refused),
        "refusals p50": _share(answers.refused, 0.5),
        "refusals max": max(answers.refused, default=None),
        "accepted p50": _share(answers.accepted, 0.5),
        "accepted p99": _share(answers.accepted, 0.99),
        "callers' own lag p99": _share(answers.lags, 0.99),
        "statuses": dict(answers.statuses),
        "defects": answers.defects[:100],
    }
    return Report(name=name, figures=figures, facts=facts)


async def _overload(server: Server, seconds: float, large_callers: int, seed: int) -> Answers:
    answers = Answers()
    small, large = (job.SerializeToString() for job in (_job(photo(), labels()), _large_job()))
    # Large messages have a connection of their own: a refusal is not to wait for others' bytes to be sent.
    async with grpc.aio.insecure_channel(server.address) as channel, _another_channel(server.address) as large_channel:
        await _send(channel, small, Answers())  # whatever is made at the first call
        end = time.monotonic() + seconds
        lag = asyncio.create_task(_watch_lag(answers.lags))
        await asyncio.gather(
            *(_call(channel, small, end, seed + number, answers) for number in range(CALLERS - large_callers)),
            *(_call(large_channel, large, end, seed - 1 - number, answers) for number in range(large_callers)),
        )
        lag.cancel()
    return answers


def _another_channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def _call(channel: Any, request: bytes, end: float, seed: int, answers: Answers) -> None:
    """One caller: a job, a pause, a job, until it is late enough."""
    chance = random.Random(seed)
    await asyncio.sleep(chance.uniform(0, PAUSE))
    while time.monotonic() < end:
        await _send(channel, request, answers)
        await asyncio.sleep(chance.uniform(0.5 * PAUSE, 1.5 * PAUSE))


async def _send(channel: Any, request: bytes, answers: Answers) -> None:
    # A message's fields may come in pieces: each call is a job of its own.
    request += pb.StylizeRequest(request_id=str(uuid.uuid4())).SerializeToString()
    began, last = time.perf_counter(), b""
    try:
        async for message in channel.unary_stream(STYLIZE)(request):
            last = message
            if began:
                answers.accepted.append(time.perf_counter() - began)
                began = 0.0
    except grpc.aio.AioRpcError as error:
        answers.statuses[error.code().name] += 1
        if not began:
            answers.defects.append(f"accepted, then {error.code().name}: {error.details()}")
            return
        answers.refused.append(time.perf_counter() - began)
        if not _has_hint(error):
            answers.defects.append(f"refused with {error.code().name}: {error.details()}, without a hint")
        return
    answers.statuses["OK"] += 1
    if last and pb.StylizeResponse.FromString(last).HasField("completed"):
        answers.finished += 1
    else:
        answers.defects.append("accepted, then no picture")


def _has_hint(error: grpc.aio.AioRpcError) -> bool:
    """Whether a refusal says that it is one for want of room, and when to come back, in both ways."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(bytes(metadata.get("grpc-status-details-bin", b"")))
    hinted = any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    pushback = str(metadata.get("grpc-retry-pushback-ms", ""))
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and hinted and pushback.isdecimal()


async def _watch_lag(lags: list[float], every: float = 0.02) -> None:
    while True:
        due = time.perf_counter() + every
        await asyncio.sleep(every)
        lags.append(max(0.0, time.perf_counter() - due))


def _job(content: Image.Image, label_map: Image.Image) -> pb.StylizeRequest:
    request = stylize_request()
    request.content.data = encoded(content)
    request.label_map.data = encoded(label_map)
    request.masked_gram.steps = STEPS
    return request


def _large_job() -> pb.StylizeRequest:
    """As small as the others once it has been decoded."""
    request = _job(photo().resize(LARGE, Image.Resampling.BICUBIC), labels().resize(LARGE, Image.Resampling.NEAREST))
    request.output.size = min(photo().size)
    return request


def _share(values: Sequence[float], share: float) -> float | None:
    """The value that so large a share of them does not exceed; None: there are none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None
