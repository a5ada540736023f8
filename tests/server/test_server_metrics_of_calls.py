"""Every call of the API is counted, whatever kind it is, and those that are not let in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from intarsia.v1 import style_transfer_pb2 as pb
from server_jobs import assert_serves, run_job, tiny_request
from server_metrics import measured_server, moved, scrape
from server_process import LONG, ServerProcess, eventually
from server_tokens import bearer, line

METHODS = tuple(pb.DESCRIPTOR.services_by_name["StyleTransferService"].methods)
TOKEN = "t" * 43


def test_calls_that_end_well() -> None:
    data = b"no picture, but an upload all the same"
    chunks = [
        pb.UploadRequest(
            upload_id="one", size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), data=data[:10]
        ),
        pb.UploadRequest(offset=10, data=data[10:]),
    ]
    with measured_server() as server, server.stub() as stub:
        job_id = run_job(stub, tiny_request(steps=1)).of("accepted")[0].job_id
        calls: dict[str, tuple[Any, Callable[[], Any]]] = {}

        def call(method: str, request: Any) -> None:
            calls[method] = request, lambda: getattr(stub, method)(request, timeout=LONG)

        call("GetJob", pb.GetJobRequest(job_id=job_id))
        call("ListJobs", pb.ListJobsRequest())
        call("CancelJob", pb.CancelJobRequest(job_id=job_id))
        call("WatchJob", pb.WatchJobRequest(job_id=job_id))
        call("GetResult", pb.GetResultRequest(job_id=job_id))
        call("GetUpload", pb.GetUploadRequest(upload_id="one"))
        before = scrape(server)
        stub.Upload(iter(chunks), timeout=LONG)
        sizes = {"Upload": (sum(chunk.ByteSize() for chunk in chunks), 0)}
        for method, (request, answer) in calls.items():
            answered = answer()
            messages: list[Message] = [answered] if isinstance(answered, Message) else list(answered)
            sizes[method] = request.ByteSize(), sum(message.ByteSize() for message in messages)

        def counted() -> bool:
            grown = moved(before, scrape(server))
            return all(grown.get(("intarsia_rpcs_total", "OK", method)) == 1 for method in sizes)

        eventually(counted, "all calls to be counted")
        grown = moved(before, scrape(server))
        for method, (received, sent) in sizes.items():
            assert grown.get(("intarsia_rpc_received_bytes_total", method), 0) == received, method
            assert method == "Upload" or grown["intarsia_rpc_sent_bytes_total", method] == sent, method


@pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
def test_refused_calls(guarded: ServerProcess, method: Any) -> None:
    """Without a token none is let in; with one, an empty request of each is refused or answered."""
    before = scrape(guarded)
    with guarded.channel() as channel:
        kinds = {False: "unary", True: "stream"}
        kind = f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}"
        make = getattr(channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
        sent: Any = iter([b""]) if method.client_streaming else b""
        codes = [ended(make, sent, metadata) for metadata in ((), bearer(TOKEN))]
    assert codes[0] == "UNAUTHENTICATED"
    assert codes[1] != "UNAUTHENTICATED"
    keys = {("intarsia_rpcs_total", code, method.name): 1.0 for code in codes}

    def counted() -> dict[tuple[str, ...], float]:
        grown = moved(before, scrape(guarded))
        return {key: value for key, value in grown.items() if key[0] == "intarsia_rpcs_total"}

    eventually(lambda: counted() == keys, f"{keys} to be counted")


def ended(make: Callable[..., Any], request: Any, metadata: Any) -> str:
    """A call's status."""
    try:
        answered = make(request, metadata=metadata, timeout=LONG)
        if not isinstance(answered, bytes):
            list(answered)
    except grpc.RpcError as error:
        return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


def test_made_up_methods_are_not_counted_when_they_are_not_let_in(guarded: ServerProcess) -> None:
    before = scrape(guarded)
    with guarded.channel() as channel:
        assert ended(channel.unary_unary("/intarsia.v1.StyleTransferService/Other"), b"", ()) == "UNAUTHENTICATED"
        assert ended(channel.unary_unary("/intarsia.v1.Other/Thing"), b"", ()) == "UNAUTHENTICATED"
    assert not [key for key in moved(before, scrape(guarded)) if key[0] == "intarsia_rpcs_total"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    file: Path = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(line("alice", TOKEN))
    with measured_server(tokens_file=file) as server:
        yield server


def test_bytes_of_calls_that_are_not_let_in_are_not_read(guarded: ServerProcess) -> None:
    before = scrape(guarded)
    with guarded.stub() as stub, pytest.raises(grpc.RpcError):
        assert_serves(stub)
    assert not [key for key in moved(before, scrape(guarded)) if "bytes" in key[0] and "rpc" in key[0]]
