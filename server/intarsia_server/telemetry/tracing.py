"""OpenTelemetry traces: a call, the wait of its job, each run, each stage; a step is an event of its stage's span.

Imported only where traces are asked for: the packages are an extra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opentelemetry import context as contexts
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from intarsia_server.engine.stages import StageStarted
from intarsia_server.executors.base import ProgressEvent, ResumedEvent
from intarsia_server.jobs.events import JobEvent
from intarsia_server.jobs.model import Job
from intarsia_server.jobs.record import JobRecord
from intarsia_server.telemetry.calls import Call

CLIENTS_FAULT = frozenset(
    {"OK", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED", "UNAUTHENTICATED"}
)
"""Statuses that are no error of the server's span."""


@dataclass
class _Spans:
    """The open spans of a job; `parent` is of the call that brought it."""

    parent: contexts.Context
    queue: Span | None = None
    run: Span | None = None
    stage: Span | None = None


class Tracing:
    """Observes jobs and calls (`JobObserver`, `CallObserver`).

    Args:
        processor: where ended spans go.
        version: of the server.
    """

    def __init__(self, processor: SpanProcessor, version: str) -> None:
        resource = Resource.create({"service.version": version})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "intarsia"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("intarsia_server", version)
        self._propagator = TraceContextTextMapPropagator()
        self._spans: dict[str, _Spans] = {}

    def stop(self) -> None:
        """Sends what is left; may take seconds."""
        self._provider.shutdown()

    def began(self, call: Call) -> Callable[[], None]:
        """Opens the call's span, under the client's where it names one."""
        carrier = {key: value for key, value in call.metadata.items() if isinstance(value, str)}
        span = self._tracer.start_span(
            f"intarsia.v1.StyleTransferService/{call.method}",
            self._propagator.extract(carrier, contexts.Context()),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.method": call.method},
        )
        # Never taken back: the call's task, and its context with it, end with the call.
        contexts.attach(set_span_in_context(span))

        def end() -> None:
            span.set_attribute("rpc.response.status_code", call.code)
            if call.code not in CLIENTS_FAULT:
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        return end

    def received(self, method: str, size: int) -> None:
        """Nothing that a trace would tell."""

    def sent(self, method: str, size: int) -> None:
        """Nothing that a trace would tell."""

    def accepted(self, job: Job) -> None:
        """Opens the wait's span, under that of the call in whose task this is."""
        spans = self._spans[job.job_id] = _Spans(contexts.get_current())
        spans.queue = self._open("queue", spans.parent, job)

    def refused(self, client: str, error: Exception) -> None:
        """The call's span has the status."""

    def started(self, job: Job) -> None:
        """Closes the wait's span, or that of a run whose worker died, and opens the run's."""
        spans = self._spans.setdefault(job.job_id, _Spans(contexts.Context()))
        _close(spans.queue)
        _close(spans.stage)
        _close(spans.run, "the worker process died")
        spans.queue = spans.stage = None
        spans.run = self._open("run", spans.parent, job)

    def published(self, job: Job, event: JobEvent) -> None:
        """Stages follow each other; a step is an event: a span would cost more, and the SDK bounds a span's events."""
        spans = self._spans.get(job.job_id)
        if spans is None or spans.run is None:
            return
        match event:
            case StageStarted():
                _close(spans.stage)
                spans.stage = self._tracer.start_span(
                    f"stage {event.stage}",
                    set_span_in_context(spans.run, spans.parent),
                    attributes={"intarsia.stage": event.stage, "intarsia.steps": event.steps},
                )
            case ResumedEvent():
                spans.run.add_event("resumed", {"intarsia.stage": event.stage, "intarsia.step": event.step})
            case ProgressEvent() if spans.stage is not None:
                spans.stage.add_event("step", {"intarsia.step": event.step, "intarsia.loss": event.total_loss})
            case _:
                pass

    def ended(self, job: Job, error: Exception | None) -> None:
        """Closes what is open."""
        spans = self._spans.pop(job.job_id, None)
        if spans is None:
            return
        failure = "" if error is None else type(error).__name__
        _close(spans.stage)
        for span in (spans.run, spans.queue):
            if span is not None:
                span.set_attribute("intarsia.state", job.state)
            _close(span, failure)

    def lost(self, record: JobRecord, error: Exception) -> None:
        """It has done nothing here."""

    def _open(self, name: str, parent: contexts.Context, job: Job) -> Span:
        attributes = {"intarsia.job_id": job.job_id, "intarsia.request_id": job.request_id}
        return self._tracer.start_span(name, parent, attributes=attributes | {"intarsia.kind": job.request.kind})


def _close(span: Span | None, failure: str = "") -> None:
    if span is None:
        return
    if failure:
        span.set_status(Status(StatusCode.ERROR, failure))
    span.end()
