"""The current span goes with every call of the client, beside its token."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc import aio
from intarsia.credentials import with_token
from intarsia.tracing import traced
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from opentelemetry.sdk.trace import TracerProvider

LONG = 60.0
CALLS: dict[str, Any] = {
    "GetJob": pb.GetJobRequest(),  # one message each way
    "WatchJob": pb.WatchJobRequest(),  # many back
    "Upload": [pb.UploadRequest(), pb.UploadRequest()],  # many there
}


class Recorder(grpc.GenericRpcHandler):
    """Takes any call, keeps its metadata and refuses it."""

    def __init__(self) -> None:
        self.metadata: dict[str, dict[str, Any]] = {}

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        self.metadata[method] = dict(handler_call_details.invocation_metadata)
        return None


@pytest.fixture
def recorder() -> Iterator[tuple[Recorder, str]]:
    recorder, server = Recorder(), grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([recorder])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield recorder, f"127.0.0.1:{port}"
    server.stop(None).wait()


def call_all(address: str, token: str | None) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = StyleTransferServiceStub(traced(with_token(channel, token)))
        for method, request in CALLS.items():
            sent = iter(request) if isinstance(request, list) else request
            with pytest.raises(grpc.RpcError):
                list(getattr(stub, method)(sent, timeout=LONG))


def call_all_asynchronously(address: str, token: str | None) -> None:
    async def run() -> None:
        async with aio.insecure_channel(address) as channel:
            stub: Any = StyleTransferServiceStub(traced(with_token(channel, token)))
            for method, request in CALLS.items():
                sent = iter(request) if isinstance(request, list) else request
                call = getattr(stub, method)(sent, timeout=LONG)
                assert await call.code() is not grpc.StatusCode.OK

    asyncio.run(run())


@pytest.mark.parametrize("token", [None, "t" * 43])
@pytest.mark.parametrize("call", [call_all, call_all_asynchronously])
def test_current_span(
    recorder: tuple[Recorder, str], call: Callable[[str, str | None], None], token: str | None
) -> None:
    recorded, address = recorder
    with TracerProvider().get_tracer("test").start_as_current_span("client") as span:
        call(address, token)
    trace = f"{span.get_span_context().trace_id:032x}"
    assert set(recorded.metadata) == set(CALLS)
    for metadata in recorded.metadata.values():
        assert metadata["traceparent"].split("-")[1] == trace
        assert metadata.get("authorization") == (f"Bearer {token}" if token else None)
    call(address, token)
    assert not [metadata for metadata in recorded.metadata.values() if "traceparent" in metadata]
