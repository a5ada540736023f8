"""The tables of `intarsia jobs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.table import Table

from intarsia.cli.job_ids import short_ids
from intarsia.jobs import job_error, state_name
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["job_table", "jobs_table"]

_STYLES = {"running": "cyan", "succeeded": "green", "failed": "red", "cancelled": "yellow"}


def jobs_table(jobs: Sequence[pb.Job]) -> Table:
    """Returns a row for each job."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "left", "right", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row("job", "state", "kind", "pixels", "done", "sent", "ran", style="bold")
    for name, job in zip(short_ids(jobs), jobs, strict=True):
        table.add_row(
            escape(name), _state(job), escape(_kind(job)), _pixels(job), f"{job.fraction:.0%}", _sent(job), _ran(job)
        )
    return table


def job_table(job: pb.Job) -> Table:
    """Returns a row for each thing that is known of a job."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, fact in _facts(job):
        if fact:
            table.add_row(name, fact)
    return table


def _facts(job: pb.Job) -> Iterator[tuple[str, str]]:
    yield "job", escape(job.job_id)
    yield "request", escape(job.request_id)
    yield "state", _state(job)
    error = job_error(job)
    yield "error", escape(str(error)) if error is not None else ""
    yield "kind", escape(_kind(job))
    yield "pixels", _pixels(job)
    yield "before it", str(job.queue_position) if job.state == pb.JOB_STATE_QUEUED else ""
    yield "done", f"{job.fraction:.0%}"
    yield "sent", _sent(job)
    yield "ran", _ran(job)
    yield "attempts", str(job.attempts) if job.attempts > 1 else ""
    yield "result", f"{job.result_bytes / 2**10:.0f} KiB" if job.result_bytes else ""
    yield "events", str(job.sequence)


def _state(job: pb.Job) -> str:
    name = state_name(job)
    return f"[{_STYLES[name]}]{name}[/]" if name in _STYLES else name


def _kind(job: pb.Job) -> str:
    return job.kind.replace("_", "-")


def _pixels(job: pb.Job) -> str:
    return f"{job.width}x{job.height}" if job.width else ""


def _sent(job: pb.Job) -> str:
    return f"{_time(job.create_time).astimezone():%Y-%m-%d %H:%M:%S}" if job.HasField("create_time") else ""


def _ran(job: pb.Job) -> str:
    if not job.HasField("start_time"):
        return ""
    # Of a running job by this computer's clock, which need not be the server's.
    end = _time(job.end_time) if job.HasField("end_time") else datetime.now(UTC)
    seconds = max((end - _time(job.start_time)).total_seconds(), 0)
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 100 else f"{minutes} min {rest} s"


def _time(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC)
