"""How late the front's event loop runs what is due while every kind of client keeps it busy."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor

from intarsia import Client
from intarsia.v1 import style_transfer_pb2 as pb

from bench.report import Figure, Report
from bench.trust.jobs import job_of
from bench.trust.load import KINDS, keep_busy
from bench.trust.options import Options
from bench.trust.server import running_server

GOAL = 0.02
METRIC = "intarsia_event_loop_lag_seconds"
LARGE_SIDE = 800
"""Pixels of the picture that clients fetch."""

Buckets = Mapping[float, float]
"""Of a histogram: by upper bound, how many values are not above it."""


def run(options: Options) -> Iterator[Report]:
    """Reads the server's own measurements before and after."""
    metrics = f"127.0.0.1:{_free_port()}"
    settings = {"metrics_address": metrics, "upload_seconds": 5, "result_chunk_bytes": 2**16}
    with running_server(threads=1, **settings) as server:
        server.wait_until_ready()
        with Client(server.address) as client:
            client.start(_large_job()).result()
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(KINDS), mp_context=spawn) as pool:
            list(pool.map(abs, range(len(KINDS))))  # the processes are there
            before = lag(metrics)
            futures = {kind: pool.submit(keep_busy, kind, server.address, options.load_seconds) for kind in KINDS}
            turns = {kind: future.result() for kind, future in futures.items()}
            after = lag(metrics)
    yield report_of({bound: after[bound] - before[bound] for bound in after}, turns)


def lag(address: str) -> Buckets:
    """The histogram that a server shows."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        lines = answer.read().decode()
    found = re.findall(rf'^{METRIC}_bucket{{le="(\S+)"}} (\S+)$', lines, re.MULTILINE)
    return {float(bound): float(count) for bound, count in found}


def quantile(buckets: Buckets, share: float) -> float:
    """The upper bound of the bucket with the value that so large a share does not exceed."""
    enough = share * buckets[math.inf]
    return min(bound for bound, count in buckets.items() if count >= enough)


def report_of(buckets: Buckets, turns: Mapping[str, int]) -> Report:
    """The measured figure is a bucket's upper bound, so it is too large rather than too small."""
    within = itertools.pairwise([0.0, *buckets.values()])
    counts = {f"<= {bound:g} s": later - earlier for bound, (earlier, later) in zip(buckets, within, strict=True)}
    figure = Figure(
        name="event-loop lag at full load, p99 (upper bound of its bucket)",
        goal=GOAL,
        measured=quantile(buckets, 0.99),
        unit="s",
    )
    return Report(name="lag", figures=(figure,), facts={"lag": counts, "turns": dict(turns)})


def _large_job() -> pb.StylizeRequest:
    request = job_of("masked_gram", 1)
    request.output.size = LARGE_SIDE
    return request


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
