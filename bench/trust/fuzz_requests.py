"""Fuzzed requests of every method, to a real server through its socket."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1 import style_transfer_pb2_grpc as pb_grpc

from bench.trust.mutants import mutated_bytes, mutated_message, random_message
from bench.trust.samples import requests, stylize_request
from bench.trust.server import Server, running_server

SERVICE = pb.DESCRIPTOR.services_by_name["StyleTransferService"]
DEFECTS = frozenset(
    {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE}
)
"""Statuses that no request may end with, whatever is in it."""

AT_ONCE = 8
ROUND = 1000
"""Requests between two good jobs."""

PATIENT, IMPATIENT = 20.0, 1.0
"""Seconds of a call's deadline: a job that is taken may run for as long."""

SETTINGS = {"max_pixels": 256 * 256, "max_message_bytes": 2**20, "queue_capacity": 64, "threads": 1}


@dataclass
class RequestFindings:
    """What became of fuzzed requests.

    Attributes:
        statuses: how many ended with each; "events" where a stream had begun, which was cancelled then; "unread" where
            the client lost the status.
        defects: calls that ended with one of `DEFECTS`, with the seed that brings the request back.
        crashes: ends of the server, or of a worker.
        unserved: good jobs in between that did not succeed.
        growth: bytes that the front process held more at the end than after the first round.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    crashes: int = 0
    unserved: int = 0
    growth: int = 0


def fuzz_requests(
    count: int, *, seed: int, methods: Collection[str] = tuple(requests()), per_round: int = ROUND
) -> RequestFindings:
    """Sends that many fuzzed requests to a server of its own."""
    with running_server(**SETTINGS) as server:
        server.wait_until_ready()
        return fuzz_server(server, range(seed, seed + count), sorted(methods), per_round=per_round)


def fuzz_server(server: Server, seeds: range, methods: Sequence[str], *, per_round: int) -> RequestFindings:
    """Sends one fuzzed request for each seed to a server that runs, and a good job after each round."""
    return asyncio.run(_fuzz(server, seeds, methods, per_round))


async def _fuzz(server: Server, seeds: range, methods: Sequence[str], per_round: int) -> RequestFindings:
    found, memory = RequestFindings(), list[int]()
    async with grpc.aio.insecure_channel(server.address) as channel:
        for start in range(seeds.start, seeds.stop, per_round):
            waiting = iter(range(start, min(start + per_round, seeds.stop)))
            senders = (_send_all(channel, waiting, methods, found) for _ in range(AT_ONCE))
            await asyncio.gather(*senders)
            if not server.alive:
                found.crashes += 1
                found.defects.append(f"the server ended, seeds {start} and later")
                return found
            found.unserved += not await _serves(channel)
            memory.append(server.memory)
    found.crashes += server.log_file.read_text().count("died; starting another")
    found.growth = max(memory) - memory[0]
    return found


async def _send_all(channel: Any, seeds: Iterator[int], methods: Sequence[str], found: RequestFindings) -> None:
    for seed in seeds:
        chance = random.Random(seed)
        method = chance.choice(methods)
        status, message = await _send(channel, method, fuzzed_request(method, chance), patient=chance.random() < 0.05)
        found.statuses[status if isinstance(status, str) else status.name] += 1
        if status in DEFECTS:
            found.defects.append(f"seed {seed}: {method}: {status}: {message}")


def fuzzed_request(method: str, chance: random.Random) -> bytes:
    """A request of that method on the wire: a mutated good one, a random one, or no message at all."""
    good = requests()[method]
    draw = chance.random()
    if draw < 0.6:
        return mutated_message(good, chance).SerializeToString()
    if draw < 0.8:
        return random_message(type(good), chance).SerializeToString()
    return mutated_bytes(good.SerializeToString(), chance)


async def _send(channel: Any, method: str, data: bytes, *, patient: bool) -> tuple[grpc.StatusCode | str, str]:
    """How a call ends; the patient wait for its end, the others cancel it once the server has begun to answer."""
    info = SERVICE.methods_by_name[method]
    path = f"/{SERVICE.full_name}/{method}"
    timeout = PATIENT if patient else IMPATIENT
    try:
        if info.client_streaming:
            pieces = [data] * (2 if patient else 1)
            await channel.stream_unary(path)(iter(pieces), timeout=timeout)
        elif info.server_streaming:
            call = channel.unary_stream(path)(data, timeout=timeout)
            async for _ in call:
                if not patient:
                    call.cancel()
                    return "events", ""
        else:
            await channel.unary_unary(path)(data, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        # Of this side's own making: the server ended the call while it was written to (grpc/grpc issue 36066).
        if "execute_batch" in (error.debug_error_string() or ""):
            return "unread", ""
        return error.code(), str(error.details())
    return grpc.StatusCode.OK, ""


async def _serves(channel: Any) -> bool:
    """Whether a good job gets its picture."""
    stub: Any = pb_grpc.StyleTransferServiceStub(channel)
    try:
        events = [event async for event in stub.Stylize(stylize_request(), timeout=600)]
    except grpc.aio.AioRpcError:
        return False
    return bool(events) and events[-1].HasField("completed")
