"""What is counted and measured, for Prometheus; docs/operations.md lists it for operators."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.process_collector import ProcessCollector

from intarsia_server.executors.base import ProgressEvent, ResumedEvent
from intarsia_server.jobs.events import CompletedEvent, JobEvent
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord, JobState
from intarsia_server.telemetry.calls import Call
from intarsia_server.telemetry.rate import Rate

JOB_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """Observes jobs and calls (`JobObserver`, `CallObserver`), into a registry of its own.

    Labels come from closed sets: no client can make them grow, and none says who asked for what.

    Args:
        code_of: the name of the status that an error becomes.
        versions: of the packages that matter.
    """

    def __init__(self, code_of: Callable[[Exception], str], versions: Mapping[str, str]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._code_of = code_of
        self._rate = Rate()
        Info("intarsia_build", "Versions.", registry=registry).info(dict(versions))
        self._jobs = Counter("intarsia_jobs", "Jobs that have ended.", ["kind", "state"], registry=registry)
        self._recovered = Counter(
            "intarsia_jobs_recovered", "Jobs of an earlier server that were queued again.", ["kind"], registry=registry
        )
        self._resumed = Counter(
            "intarsia_jobs_resumed", "Runs that went on with what had been begun.", ["kind", "at"], registry=registry
        )
        self._waiting = Histogram(
            "intarsia_job_waiting_seconds",
            "From a job's acceptance until a worker first took it.",
            buckets=JOB_SECONDS,
            registry=registry,
        )
        self._run = Histogram(
            "intarsia_job_run_seconds",
            "That a worker took for a job that succeeded.",
            ["kind"],
            buckets=JOB_SECONDS,
            registry=registry,
        )
        self._steps = Counter("intarsia_steps", "Steps done.", ["kind", "stage"], registry=registry)
        Gauge("intarsia_steps_per_second", "Over the last 10 s.", registry=registry).set_function(self._rate.per_second)
        self._stage = Histogram(
            "intarsia_stage_seconds",
            "That a stage of a job that succeeded took.",
            ["stage"],
            buckets=JOB_SECONDS,
            registry=registry,
        )
        self._targets = Counter(
            "intarsia_style_targets", "Style images that a stage needed targets of.", ["cache"], registry=registry
        )
        self._refusals = Counter(
            "intarsia_refusals", "Jobs that were not taken, by cause.", ["reason", "code"], registry=registry
        )
        self._rpcs = Counter("intarsia_rpcs", "Calls that have ended.", ["method", "code"], registry=registry)
        self._received = Counter("intarsia_rpc_received_bytes", "Of request messages.", ["method"], registry=registry)
        self._sent = Counter("intarsia_rpc_sent_bytes", "Of response messages.", ["method"], registry=registry)
        self._lag = Histogram(
            "intarsia_event_loop_lag_seconds",
            "By which the event loop was late, ten times a second.",
            buckets=LAG_SECONDS,
            registry=registry,
        )

    def accepted(self, job: Job) -> None:
        """Counts those that an earlier server had."""
        if job.epoch:
            self._recovered.labels(job.request.kind).inc()

    def refused(self, client: str, error: Exception) -> None:
        """Counts by what the error is; who it was does not matter."""
        del client
        self._refusals.labels(_snake_case(type(error).__name__), self._code_of(error)).inc()

    def started(self, job: Job) -> None:
        """Waiting ends, but for a job that is taken again."""
        if job.attempts == 1 and job.began_at is not None:
            self._waiting.observe(max(0.0, job.began_at - job.created_at))

    def published(self, job: Job, event: JobEvent) -> None:
        """Counts steps as they come, and what the stages took at the end."""
        match event:
            case ProgressEvent(stage=stage):
                self._steps.labels(job.request.kind, stage_label(stage)).inc()
                self._rate.add()
            case ResumedEvent(stage=stage):
                self._resumed.labels(job.request.kind, "checkpoint" if stage else "beginning").inc()
            case CompletedEvent(stages=stages):
                for done in stages:
                    self._stage.labels(stage_label(done.stage)).observe(done.seconds)
                    self._targets.labels("hit").inc(done.cached_targets)
                    self._targets.labels("miss").inc(done.targets - done.cached_targets)
            case _:
                pass

    def ended(self, job: Job, error: Exception | None) -> None:
        """Counts it, unless it is to go on with the next server."""
        del error
        if job.state.ended:
            self._jobs.labels(job.request.kind, job.state).inc()
        if job.state is JobState.SUCCEEDED and job.started_at is not None:
            self._run.labels(job.request.kind).observe(time.monotonic() - job.started_at)

    def lost(self, record: JobRecord, error: Exception) -> None:
        """It has ended, too."""
        del error
        self._jobs.labels(record.kind, record.state).inc()

    def began(self, call: Call) -> Callable[[], None]:
        """Counts the call at its end."""
        return lambda: self._rpcs.labels(call.method, call.code).inc()

    def received(self, method: str, size: int) -> None:
        """Adds up."""
        self._received.labels(method).inc(size)

    def sent(self, method: str, size: int) -> None:
        """Adds up."""
        self._sent.labels(method).inc(size)

    def lagged(self, seconds: float) -> None:
        """The event loop was late by that."""
        self._lag.observe(seconds)


def stage_label(stage: str) -> str:
    """A stage's name without its number: "segment" of "segment 3", for there may be 256."""
    return stage.rstrip("0123456789").rstrip()


def _snake_case(error: str) -> str:
    """Turns "QueueFullError" into "queue_full"."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", error.removesuffix("Error")).lower()
