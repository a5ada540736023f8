"""A full disk: while a checkpoint or a result is stored, a job is accepted, a picture uploaded, and at the start."""

from __future__ import annotations

import hashlib
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.report import Figure, Report
from bench.trust.options import Options
from bench.trust.samples import pictures, stylize_request
from bench.trust.server import Server, running_server
from bench.trust.small_disk import SmallDisk, small_disk

MIB = 8
STEPS = 150
"""Of a job in whose time a disk can be filled."""

CHECKPOINT_SECONDS = 0.05
PATIENCE = 120.0
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
ACTIVE = (pb.JOB_STATE_QUEUED, pb.JOB_STATE_RUNNING)


def run(options: Options) -> Iterator[Report]:
    """Fills the disk at every point at which something is stored, and makes room again."""
    del options
    try:
        with small_disk(MIB) as disk:
            found = findings(disk)
    except PermissionError as error:
        missing = Figure(name="disk full: defects", goal=0, measured=None)
        yield Report(name="disk", figures=[missing], facts={"reason": str(error)})
        return
    figures = [Figure(name=f"disk full {when}: defects", goal=0, measured=len(what)) for when, what in found.items()]
    yield Report(name="disk", figures=figures, facts={"defects": found})


def findings(disk: SmallDisk) -> dict[str, list[str]]:
    """Defects, by when the disk was full: two servers one after the other, the first of which is killed."""
    with _serving(disk) as (server, stub):
        reference = _outcome(stub, _job(STEPS))
        found = {
            "while a checkpoint is stored": _checkpoint(disk, server, stub, reference),
            "while a result is stored": _result(disk, stub, reference),
            "when a job is accepted": _acceptance(disk, stub, reference),
            "when a picture is uploaded": _upload(disk, stub),
        }
        kept = next(iter(stub.ListJobs(pb.ListJobsRequest()).jobs)).job_id
        left = _left_behind(disk, server, stub)
    with _serving(disk) as (server, stub):
        found["at the start, with a job to go on with"] = _start(disk, stub, kept, left)
        server.process.terminate()
        ended = server.process.wait(PATIENCE)
    found["or had been: what is left on it"] = [*_damage(disk), *([f"exit code {ended}"] if ended else [])]
    return found


def _checkpoint(disk: SmallDisk, server: Server, stub: StyleTransferServiceStub, reference: object) -> list[str]:
    call = stub.Stylize(_job(STEPS))
    _read_until(call, "progress")
    disk.fill()
    for event in call:
        if "a checkpoint cannot be written" in server.log_file.read_text():
            break
        if event.HasField("completed"):
            return ["no checkpoint was missing"]
    disk.free()
    return _unless(_picture(call) == reference, "another picture, or none")


def _result(disk: SmallDisk, stub: StyleTransferServiceStub, reference: object) -> list[str]:
    request = _job(STEPS)
    call = stub.Stylize(request)
    job_id = next(call).accepted.job_id
    _read_until(call, "progress")
    disk.fill()
    ended = _picture(call)
    job = stub.GetJob(pb.GetJobRequest(job_id=job_id)).job
    again = _outcome(stub, request)
    disk.free()
    return [
        *_unless(ended is FULL, f"it ended with {ended}"),
        *_unless(job.state == pb.JOB_STATE_FAILED, f"it is said to be in state {job.state}"),
        *_unless(again is FULL, f"asked for again it ended with {again}"),
        *_unless(_outcome(stub, _job(STEPS)) == reference, "no picture of the next one"),
    ]


def _acceptance(disk: SmallDisk, stub: StyleTransferServiceStub, reference: object) -> list[str]:
    request = _job(STEPS)
    disk.fill()
    refused = _outcome(stub, request)
    disk.free()
    return [
        *_unless(refused is FULL, f"it ended with {refused}"),
        *_unless(_outcome(stub, request) == reference, "not accepted later"),
    ]


def _upload(disk: SmallDisk, stub: StyleTransferServiceStub) -> list[str]:
    disk.fill()
    refused = _uploaded(stub)
    disk.free()
    later = _uploaded(stub)
    return [*_unless(refused is FULL, f"it ended with {refused}"), *_unless(later is None, f"later with {later}")]


def _left_behind(disk: SmallDisk, server: Server, stub: StyleTransferServiceStub) -> pb.StylizeRequest:
    """What the server was at work on when it was killed."""
    request = _job(4 * STEPS)
    request.on_disconnect = pb.ON_DISCONNECT_DETACH
    _read_until(stub.Stylize(request), "progress")
    time.sleep(1)
    disk.fill()
    server.process.kill()
    server.process.wait()
    return request


def _start(disk: SmallDisk, stub: StyleTransferServiceStub, kept: str, left: pb.StylizeRequest) -> list[str]:
    jobs = stub.ListJobs(pb.ListJobsRequest()).jobs
    waiting = [job.job_id for job in jobs if job.state in ACTIVE]
    defects = [
        *_unless(bool(_downloaded(stub, kept)), "the result of before is not served"),
        *_unless(len(waiting) == 1, f"{len(waiting)} jobs are said to go on"),
        *_unless((status := _outcome(stub, _job(1))) is FULL, f"a new job ended with {status}"),
    ]
    if not waiting:
        return defects
    disk.free()
    deadline = time.monotonic() + PATIENCE
    while (job := stub.GetJob(pb.GetJobRequest(job_id=waiting[0])).job).state in ACTIVE and time.monotonic() < deadline:
        time.sleep(0.1)
    left.request_id = str(uuid.uuid4())
    return [
        *defects,
        *_unless(job.state == pb.JOB_STATE_SUCCEEDED, f"the job ended in state {job.state}"),
        *_unless(_downloaded(stub, waiting[0]) == _outcome(stub, left), "it has another picture than without all this"),
    ]


def _damage(disk: SmallDisk) -> list[str]:
    """What is not as it should be once no server runs."""
    data = _data(disk)
    with closing(sqlite3.connect(data / "jobs.sqlite3")) as database:
        (verdict,) = database.execute("PRAGMA integrity_check").fetchone()
        kept = {name for (name,) in database.execute("SELECT result FROM jobs WHERE result != ''")}
    results = {path.name for path in (data / "results").iterdir()}
    files = [path for folder in ("results", "inputs", "uploads/complete") for path in (data / folder).iterdir()]
    damaged = [path.name for path in files if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]
    return [
        *_unless(verdict == "ok", f"the database: {verdict}"),
        *_unless(results == kept, "other results than jobs have"),
        *_unless(not damaged, f"damaged: {damaged}"),
        *_unless(not list((data / "inputs").iterdir()), "inputs of no job"),
        *_unless(not list((data / "checkpoints").iterdir()), "checkpoints of no job"),
    ]


@contextmanager
def _serving(disk: SmallDisk) -> Iterator[tuple[Server, StyleTransferServiceStub]]:
    settings = {"data_dir": _data(disk), "threads": 1, "checkpoint_seconds": CHECKPOINT_SECONDS}
    with running_server(**settings) as server, grpc.insecure_channel(server.address) as channel:
        server.wait_until_ready()
        yield server, StyleTransferServiceStub(channel)


def _data(disk: SmallDisk) -> Path:
    return disk.folder / "data"


def _job(steps: int) -> pb.StylizeRequest:
    request = stylize_request()
    request.request_id = str(uuid.uuid4())
    request.masked_gram.steps = steps
    return request


def _outcome(stub: StyleTransferServiceStub, request: pb.StylizeRequest) -> object:
    """The picture, or the status that there is in its place."""
    return _picture(stub.Stylize(request, timeout=PATIENCE))


def _picture(call: Iterator[pb.StylizeResponse]) -> object:
    try:
        return b"".join([event.result.image.data for event in call])
    except grpc.RpcError as error:
        return error.code()


def _downloaded(stub: StyleTransferServiceStub, job_id: str) -> bytes:
    return b"".join(response.data for response in stub.GetResult(pb.GetResultRequest(job_id=job_id)))


def _uploaded(stub: StyleTransferServiceStub) -> object:
    """None, or the status that an upload ended with."""
    data = pictures()["tiff"]
    request = pb.UploadRequest(upload_id=uuid.uuid4().hex, size_bytes=len(data), data=data)
    request.sha256 = hashlib.sha256(data).hexdigest()
    try:
        return None if stub.Upload(iter([request]), timeout=PATIENCE).complete else "incomplete"
    except grpc.RpcError as error:
        return error.code()


def _read_until(call: Iterator[pb.StylizeResponse], kind: str) -> None:
    for event in call:
        if event.WhichOneof("event") == kind:
            return


def _unless(well: bool, defect: str) -> list[str]:
    return [] if well else [defect]
