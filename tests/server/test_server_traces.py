"""Traces: from the client's span by way of the call to each stage's steps, over a real connection."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from intarsia import Client
from intarsia.tracing import traced
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia_server.executors.base import OutOfMemoryError, WorkerDiedError
from intarsia_server.telemetry.calls import CallInterceptor
from intarsia_server.telemetry.exporter import tracing_from_environment
from intarsia_server.telemetry.tracing import Tracing
from job_bench import Bench, on_bench, until
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from scripted_executor import transfer_request
from server_jobs import run_job, tiny_request
from server_process import LONG, ServerProcess

STYLIZE = "/intarsia.v1.StyleTransferService/Stylize"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    return Tracing(SimpleSpanProcessor(exporter), "1.2.3")


class Service:
    """Runs one scripted job a call."""

    def __init__(self, tracing: Tracing) -> None:
        self.bench = Bench(observers=[tracing])
        self.executor, self.jobs = self.bench.executor, self.bench.manager
        self.metadata: dict[str, Any] = {}
        self.over = asyncio.Event()

    async def stylize(
        self, request: pb.StylizeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.StylizeResponse]:
        self.metadata = dict(context.invocation_metadata() or ())
        job = self.jobs.submit(transfer_request(int(request.seed)), request_id=request.request_id, size=(96, 64))
        try:
            async for _ in job.log.read(heartbeat=LONG):
                yield pb.StylizeResponse()
        except OutOfMemoryError:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "not enough memory")
        finally:
            self.jobs.cancel(job)
            self.over.set()


@asynccontextmanager
async def served(tracing: Tracing) -> AsyncIterator[tuple[Service, Callable[[int], Any]]]:
    """A service on a real port, and how to call it by way of the client's traced channel."""
    service = Service(tracing)
    await service.bench.start()
    server = grpc.aio.server(interceptors=[CallInterceptor([STYLIZE], [tracing])])
    handler = grpc.unary_stream_rpc_method_handler(
        service.stylize, pb.StylizeRequest.FromString, pb.StylizeResponse.SerializeToString
    )
    name, _, method = STYLIZE.strip("/").partition("/")
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stylize = traced(channel).unary_stream(
            STYLIZE, pb.StylizeRequest.SerializeToString, pb.StylizeResponse.FromString
        )
        yield service, lambda seed: stylize(pb.StylizeRequest(seed=seed, request_id=str(seed)), timeout=LONG)
    await service.bench.stop()
    await server.stop(None)


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    names = {span.name: span for span in spans}
    assert len(names) == len(spans)
    return names


def test_from_the_client_to_the_step(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async def run() -> ReadableSpan:
        async with served(tracing) as (service, stylize):
            service.executor.let_go(1)
            with TracerProvider().get_tracer("client").start_as_current_span("client") as span:
                async for _ in stylize(1):
                    pass
        assert isinstance(span, ReadableSpan)
        return span

    client = asyncio.run(run())
    spans = by_name(exporter.get_finished_spans())
    assert set(spans) == {STYLIZE.strip("/"), "queue", "run", "stage masked gram"}
    assert {span.context.trace_id for span in spans.values()} == {client.context.trace_id}
    call, queue, run_, stage = (spans[name] for name in (STYLIZE.strip("/"), "queue", "run", "stage masked gram"))
    parents = [span.parent.span_id for span in (call, queue, run_, stage) if span.parent is not None]
    assert parents == [client.context.span_id, call.context.span_id, call.context.span_id, run_.context.span_id]
    assert (call.attributes or {})["rpc.response.status_code"] == "OK"
    assert (run_.attributes or {})["intarsia.state"] == "succeeded"
    assert (run_.attributes or {})["intarsia.request_id"] == "1"
    (step,) = stage.events
    assert dict(step.attributes or {}) == {"intarsia.step": 1, "intarsia.loss": 1.0}
    assert queue.end_time is not None
    assert run_.start_time is not None
    assert queue.end_time <= run_.start_time
    assert call.resource.attributes["service.name"] == "intarsia"
    assert call.resource.attributes["service.version"] == "1.2.3"


def test_failure_marks_the_spans(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async def run() -> None:
        async with served(tracing) as (service, stylize):
            service.executor.failures[2] = OutOfMemoryError("not enough memory")
            service.executor.let_go(2)
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in stylize(2):
                    pass
            assert "traceparent" not in service.metadata  # there was no span to pass on

    asyncio.run(run())
    spans = by_name(exporter.get_finished_spans())
    call, run_ = spans[STYLIZE.strip("/")], spans["run"]
    assert call.parent is None
    assert (call.attributes or {})["rpc.response.status_code"] == "RESOURCE_EXHAUSTED"
    assert call.status.status_code is run_.status.status_code is StatusCode.ERROR
    assert run_.status.description == "OutOfMemoryError"


def test_client_that_goes_away(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async def run() -> None:
        async with served(tracing) as (service, stylize):
            call = stylize(3)
            await call.read()
            call.cancel()
            async with asyncio.timeout(LONG):
                await service.over.wait()

    asyncio.run(run())
    spans = by_name(exporter.get_finished_spans())
    assert (spans[STYLIZE.strip("/")].attributes or {})["rpc.response.status_code"] == "CANCELLED"
    assert (spans["run"].attributes or {})["intarsia.state"] == "cancelled"


def test_run_that_is_taken_up_again(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    async def scenario(bench: Bench) -> None:
        bench.executor.failures[4] = WorkerDiedError("the worker process died")
        job = await bench.submit(4)
        bench.executor.fail_once(4)
        await until(lambda: bench.executor.begun == [4, 4])
        bench.executor.let_go(4)
        await bench.events_of(job)

    on_bench(scenario, observers=[tracing])
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["queue", "stage masked gram", "run", "stage masked gram", "run"]
    first, second = (span for span in exporter.get_finished_spans() if span.name == "run")
    assert first.status.description == "the worker process died"
    assert second.status.status_code is StatusCode.UNSET
    assert not first.events
    (resumed,) = second.events
    assert (resumed.name, dict(resumed.attributes or {})) == ("resumed", {"intarsia.stage": "", "intarsia.step": 0})


def test_job_of_an_earlier_server(tracing: Tracing, exporter: InMemorySpanExporter, tmp_path: Path) -> None:
    async def run() -> None:
        first = Bench(tmp_path, observers=[tracing])
        await first.start()
        await first.submit(5)
        await first.manager.drain(0)
        await first.archive.close()
        first.folder.close()
        (left,) = (span for span in exporter.get_finished_spans() if span.name == "run")
        assert (left.attributes or {})["intarsia.state"] == "queued"
        exporter.clear()
        second = Bench(tmp_path, observers=[tracing])
        second.executor.let_go(5)
        await second.start()
        await second.stop()

    asyncio.run(run())
    spans = by_name(exporter.get_finished_spans())
    assert set(spans) == {"queue", "run", "stage masked gram"}
    assert (spans["run"].attributes or {})["intarsia.state"] == "succeeded"
    assert [event.name for event in spans["run"].events] == ["resumed"]


def test_no_traces_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert tracing_from_environment("1") is None


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace.propagation.tracecontext", None)
    assert tracing_from_environment("1") is None
    assert "intarsia[telemetry]" in caplog.text
    channel = object()
    assert traced(channel) is channel


def test_real_server_sends_to_a_collector(
    start_server: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[ExportTraceServiceRequest] = []

    def export(request: ExportTraceServiceRequest, _: object) -> ExportTraceServiceResponse:
        received.append(request)
        return ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    collector = grpc.server(ThreadPoolExecutor(1))
    collector.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": handler})])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.add_insecure_port('127.0.0.1:0')}")
    collector.start()
    server = start_server()
    server.wait_until_ready()
    with (
        Client(server.address) as client,
        TracerProvider().get_tracer("client").start_as_current_span("client") as span,
    ):
        for _ in client.start(tiny_request(steps=3), LONG):
            pass
    server.terminate()
    assert server.wait_for_end() == 0
    collector.stop(None).wait()
    spans = {
        one.name: one
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for one in scope.spans
        if one.trace_id == span.get_span_context().trace_id.to_bytes(16, "big")
    }
    assert set(spans) == {STYLIZE.strip("/"), "queue", "run", "stage masked gram"}
    assert len(spans["stage masked gram"].events) == 3


def test_collector_that_is_not_there(
    start_server: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Jobs run, and the server ends well."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"unix:{tmp_path}/nobody")
    server = start_server()
    server.wait_until_ready()
    with server.stub() as stub:
        assert run_job(stub, tiny_request(steps=1)).image
    server.terminate()
    assert server.wait_for_end() == 0
