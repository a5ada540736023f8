"""What a server takes from 1 to 1000 GPUs: its parts are measured here, and the rest follows from them.

A job takes a worker for its steps, and the front process, of which there is one to a server and which runs in one core,
for its admission, store and stream. Measured are a step's time by pixels and segments, the front's processor time for a
job and for a message, and the store's time for a job; `throughput` is the least of what each allows. The front is
measured busy, with workers that take steps at a GPU's pace and do nothing else (`bench.paced`): an idle one takes three
times as long for a message, most of it to wake up. On this machine the model is held to what one worker and two do.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import math
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from intarsia_server.engine.cancel import never
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.request import ImageFormat
from intarsia_server.engine.transfer import transfer
from intarsia_server.jobs.archive import Archive
from intarsia_server.jobs.folder import DataFolder
from intarsia_server.jobs.record import JobRecord, JobState, Outcome

from bench.example import MAX_PIXELS, example_message, example_request, machine, new_encoder
from bench.options import Options
from bench.report import Figure, Report
from bench.trust.samples import stylize_request
from bench.trust.server import Server, running_server

SIDES = (150, 300, 600)
SEGMENTS = (1, 3, 8, 16)
STEP_SIDE = 300
"""Where segments are compared."""

GPUS = (1, 2, 4, 8, 16, 32, 100, 316, 1000)
BUSY = 0.8
"""Share of its time that a part may be busy for: beyond it, waits grow out of hand."""

GPU_SPEEDUP = 200.0
"""Of a step on a GPU over one on this machine: the project's goal, and an assumption wherever no GPU was measured."""

PACED_WORKERS = 8
PACED_SIDE = 600
PACE = 0.0025
"""Seconds of a step of theirs, about what `GPU_SPEEDUP` makes of one at that side."""

CLOSE = 0.25
"""How far the model may be from what is measured on this machine."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job is for the model.

    Attributes:
        worker_seconds: that it takes a worker.
        messages: that its watcher gets.
    """

    worker_seconds: float
    messages: float


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a server's shared parts take, in seconds.

    Attributes:
        front_job: the front's processor for a job of no steps, its pictures decoded and its result sent.
        front_message: for each message to a watcher on top of that.
        store_job: the store for all that is written of a job, when many are written at once.
    """

    front_job: float
    front_message: float
    store_job: float

    def front(self, job: Job) -> float:
        """Seconds of the front's processor for a job."""
        return self.front_job + job.messages * self.front_message


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What one server could do with its workers.

    Attributes:
        workers: it has so many.
        per_second: jobs, at most.
        limit: what does not allow more.
        wait: mean seconds in the queue, when `BUSY` of that is offered at random moments.
        servers: so many fronts would keep all of these workers busy to `BUSY`, each below it.
    """

    workers: int
    per_second: float
    limit: str
    wait: float
    servers: int


def throughput(job: Job, parts: Parts, workers: int) -> Capacity:
    """The least of what workers, front and store allow."""
    front, store = 1 / parts.front(job), 1 / parts.store_job
    allowed = {"workers": workers / job.worker_seconds, "front": BUSY * front, "store": BUSY * store}
    limit = min(allowed, key=lambda name: allowed[name])
    offered = BUSY * allowed["workers"]
    servers = max(1, math.ceil(offered / (BUSY * min(front, store))))
    usable = workers if limit == "workers" else max(1, math.floor(allowed[limit] * job.worker_seconds))
    wait = waiting(BUSY * usable / job.worker_seconds, job.worker_seconds, usable)
    return Capacity(workers=workers, per_second=allowed[limit], limit=limit, wait=wait, servers=servers)


def waiting(rate: float, seconds: float, workers: int) -> float:
    """Mean seconds in a queue that all workers serve, jobs coming at random moments (Erlang's C formula, M/M/c).

    Args:
        rate: jobs a second, fewer than the workers can do.
        seconds: of a worker for each.
        workers: number of them.
    """
    load = rate * seconds
    blocked = 1.0  # Erlang's B formula by its recursion, which no number of workers makes overflow
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    busy = load / workers
    return blocked / (1 - busy + busy * blocked) * seconds / (workers * (1 - busy))


def run(options: Options) -> Iterator[Report]:
    """Costs by pixels and segments, the shared parts, and the model beside this machine and beyond it."""
    rounds = options.rounds or 5
    sides = (options.size,) if options.size else SIDES
    steps = {side: step_seconds(side, 3, rounds) for side in sides}
    segments = {count: step_seconds(options.size or STEP_SIDE, count, rounds) for count in SEGMENTS}
    parts = measure_parts(rounds)
    checks = [check(parts, workers, rounds) for workers in (1, 2)]
    figures = [
        Figure(
            name=f"{row['workers']} workers: what the model says of jobs a second, off by",
            goal=CLOSE,
            measured=abs(row["predicted"] / row["measured"] - 1),
        )
        for row in checks
    ]
    largest = max(steps)
    job = Job(worker_seconds=_STEPS * steps[largest] / GPU_SPEEDUP + _OUTSIDE, messages=_STEPS)
    rows = [asdict(throughput(job, parts, count)) for count in GPUS]
    for row in rows:
        print(
            f"{row['workers']} GPUs: {row['per_second']:.2f} jobs/s (limit: {row['limit']}), "
            f"wait {row['wait']:.2f} s; {row['servers']} servers for all of them"
        )
    yield Report(
        name="scale",
        figures=figures,
        facts={
            "step_seconds_by_side": steps,
            "step_seconds_by_segments": segments,
            "parts": asdict(parts),
            "checks": checks,
            "assumed": {"job": asdict(job), "side": largest, "gpu_speedup": GPU_SPEEDUP, "busy": BUSY},
            "capacity": rows,
            "machine": machine(),
        },
    )


_STEPS = 150
"""Of a job at the product's defaults, all stages together."""

_OUTSIDE = 0.3
"""Seconds of a job's worker outside of its steps: a GPU does not decode and encode pictures any faster."""


def step_seconds(side: int, segments: int, rounds: int) -> float:
    """Median seconds of a step of the default method's full resolution, in this process."""
    request = example_request(side, segments=segments, steps=2 * rounds + 1, parameters={"coarse_steps": 0})
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    events = transfer(request, inputs, new_encoder(request), cancelled=never)
    moments = [time.perf_counter() for event in events if isinstance(event, StepDone)]
    return statistics.median(end - start for start, end in itertools.pairwise(moments))


def measure_parts(rounds: int) -> Parts:
    """The front's processor by jobs that differ in their steps alone, and the store by itself."""
    short, long = (example_message(PACED_SIDE, method="masked-gram", steps=steps) for steps in (1, 200))
    with (
        tempfile.TemporaryDirectory(prefix="intarsia-") as data,
        running_server(
            "", ("bench.paced", str(PACE)), devices=json.dumps(["cpu"] * PACED_WORKERS), data_dir=data
        ) as server,
        _stub(server) as stub,
        ThreadPoolExecutor(PACED_WORKERS) as callers,
    ):
        server.wait_until_ready()

        def front_seconds(request: pb.StylizeRequest, jobs: int) -> float:
            before = _processor_seconds(server.process.pid)
            list(callers.map(lambda _: _run(stub, request), range(jobs)))
            return (_processor_seconds(server.process.pid) - before) / jobs

        front_seconds(short, PACED_WORKERS)  # what is made once
        few = statistics.median(front_seconds(short, 5 * PACED_WORKERS) for _ in range(rounds))
        many = statistics.median(front_seconds(long, 2 * PACED_WORKERS) for _ in range(rounds))
    return Parts(
        front_job=few,
        front_message=max(0.0, many - few) / 199,
        store_job=statistics.median(asyncio.run(_store_seconds(64)) for _ in range(rounds)),
    )


def check(parts: Parts, workers: int, rounds: int) -> dict[str, float]:
    """Jobs a second of real workers of one thread each beside what the model says, by a job's time on an idle one."""
    request = stylize_request()
    request.masked_gram.steps = 20
    with (
        running_server(devices=json.dumps(["cpu"] * workers), threads=1) as server,
        _stub(server) as stub,
        ThreadPoolExecutor(2 * workers) as callers,
    ):
        server.wait_until_ready()
        for _ in range(2):
            _run(stub, request)
        rates = []
        for _ in range(rounds):
            began = time.perf_counter()
            taken = list(callers.map(lambda _: _run(stub, request), range(6 * workers)))
            rates.append(6 * workers / (time.perf_counter() - began))
    job = Job(worker_seconds=statistics.median(taken), messages=24)
    predicted = throughput(job, parts, workers).per_second
    return {"workers": workers, "measured": statistics.median(rates), "predicted": predicted, **asdict(job)}


def _run(stub: StyleTransferServiceStub, request: pb.StylizeRequest) -> float:
    """Runs a job of pictures that the server has not seen, and returns its seconds on its worker."""
    fresh = pb.StylizeRequest()
    fresh.CopyFrom(request)
    fresh.request_id = str(uuid.uuid4())
    for image in (fresh.content, fresh.label_map, *(segment.style for segment in fresh.segments)):
        image.data += os.urandom(8)  # after a picture's end, which no decoder reads
    *_, completed = stub.Stylize(fresh)
    return completed.completed.run_time.ToNanoseconds() / 1e9


@contextmanager
def _stub(server: Server) -> Iterator[StyleTransferServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield StyleTransferServiceStub(channel)


def _processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def _store_seconds(jobs: int) -> float:
    """Seconds of the store for each of so many jobs that come at once."""
    with tempfile.TemporaryDirectory(prefix="intarsia-") as name:
        folder = DataFolder(Path(name))
        archive = Archive(folder, retention_seconds=3600.0, retention_bytes=2**30)
        await archive.open()
        began = time.perf_counter()
        await asyncio.gather(*(_store(archive, number) for number in range(jobs)))
        taken = time.perf_counter() - began
        await archive.close()
        folder.close()
    return taken / jobs


async def _store(archive: Archive, number: int) -> None:
    """As a job is, from its acceptance to its end."""
    payload, picture = (number.to_bytes(4, "big") + bytes([kind]) * 500_000 for kind in range(2))
    record = JobRecord(
        job_id=str(uuid.uuid4()),
        request_id=str(uuid.uuid4()),
        owner="",
        client="",
        kind="blended",
        payload=hashlib.sha256(payload).hexdigest(),
        size=(64, 64),
        created_at=time.time(),
    )
    await archive.accept(record, payload)
    await archive.save(replace(record, state=JobState.RUNNING, began_at=time.time()))
    outcome = Outcome(
        sha256=hashlib.sha256(picture).hexdigest(),
        size_bytes=len(picture),
        format=ImageFormat.PNG,
        width=64,
        height=64,
        sequence=1,
        chunk_bytes=len(picture),
        queued_seconds=0.0,
        run_seconds=1.0,
        stages=(),
    )
    await archive.succeed(replace(record, state=JobState.SUCCEEDED, ended_at=time.time(), outcome=outcome), picture)
