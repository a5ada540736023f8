"""Requests for tiny jobs, and what comes back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import server_pictures as pictures
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_process import LONG, eventually

FEW_STEPS: dict[str, dict[str, int]] = {
    "gatys": {"steps": 3},
    "masked_gram": {"steps": 3},
    "sequential": {"steps": 2, "smoothing_steps": 2},
    "sequential_smooth": {"steps": 2, "smoothing_steps": 3, "border_steps": 2},
    "single_shot": {"steps": 3},
    "blended": {"steps": 3},
}
"""The methods, and few steps for every stage that each has."""


def tiny_request(method: str = "masked_gram", **knobs: Any) -> pb.StylizeRequest:
    """The example in small: three segments, three styles, 96 x 64 pixels, few steps unless `knobs` say otherwise."""
    request = pb.StylizeRequest(
        content=pb.Image(data=pictures.content()),
        label_map=pb.Image(data=pictures.label_map()),
        segments=[
            pb.Segment(labels=[label], style=pb.Image(data=pictures.style(name)))
            for label, name in enumerate(pictures.STYLES)
        ],
    )
    parameters = getattr(request, method)
    parameters.SetInParent()
    for name, value in (FEW_STEPS[method] | knobs).items():
        setattr(parameters, name, value)
    return request


def long_request() -> pb.StylizeRequest:
    """A job that runs for minutes."""
    return tiny_request(steps=10_000)


@dataclass(frozen=True)
class Outcome:
    """All events of a job that succeeded."""

    responses: list[pb.StylizeResponse]

    @property
    def kinds(self) -> list[str]:
        return [str(response.WhichOneof("event")) for response in self.responses]

    def of(self, kind: str) -> list[Any]:
        return [getattr(response, kind) for response in self.responses if response.WhichOneof("event") == kind]

    @property
    def result(self) -> pb.ResultEvent:
        (result,) = self.of("result")
        assert isinstance(result, pb.ResultEvent)
        return result

    @property
    def image(self) -> bytes:
        """The result's bytes, whole or put together from chunks, checked against what the result event says."""
        result = self.result
        data = result.image.data or b"".join(chunk.data for chunk in self.of("result_chunk"))
        assert len(data) == result.size_bytes
        assert hashlib.sha256(data).hexdigest() == result.sha256
        assert pictures.opened(data).size == (result.width, result.height)
        return bytes(data)


def run_job(stub: StyleTransferServiceStub, request: pb.StylizeRequest) -> Outcome:
    """Runs a job to its end; raises grpc.RpcError when it does not succeed."""
    outcome = Outcome(list(stub.Stylize(request, timeout=LONG)))
    assert outcome.kinds[-1] == "completed"
    return outcome


def assert_serves(stub: StyleTransferServiceStub) -> None:
    """A good tiny job gets its result, once there is room for it: a job whose call has ended is given half a second."""

    def served() -> bool:
        try:
            return bool(run_job(stub, tiny_request(steps=1)).image)
        except grpc.RpcError as error:
            if failure(error).code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            return False

    eventually(served, "a job to be served")


def read_until(responses: Iterable[pb.StylizeResponse], kind: str) -> Any:
    """Reads on to the next event of that kind, and leaves the rest unread."""
    for response in responses:
        if response.WhichOneof("event") == kind:
            return getattr(response, kind)
    raise AssertionError(f"the stream ended without {kind}")


@dataclass(frozen=True)
class Failure:
    """How a call failed: its status, and google.rpc details by type."""

    code: grpc.StatusCode
    message: str
    details: tuple[Message, ...]

    @property
    def field(self) -> str:
        """The field that a BadRequest blames first; "" without one."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.BadRequest):
                return str(detail.field_violations[0].field)
        return ""


def failure_of(responses: Iterator[pb.StylizeResponse]) -> Failure:
    """Reads on to the failure that a call must end with."""
    try:
        for _ in responses:
            pass
    except grpc.RpcError as error:
        return failure(error)
    raise AssertionError("the call succeeded")


def failure(error: Any) -> Failure:
    """What a grpc.RpcError carries."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata.get("grpc-status-details-bin", b""))
    details: list[Message] = []
    for packed in status.details:
        for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            detail = kind()
            if packed.Unpack(detail):
                details.append(detail)
    return Failure(error.code(), error.details(), tuple(details))


def refusal(stub: StyleTransferServiceStub, request: pb.StylizeRequest) -> Failure:
    """The failure of a request that is refused before anything else is said."""
    responses = stub.Stylize(request, timeout=LONG)
    try:
        first = next(responses)
    except grpc.RpcError as error:
        return failure(error)
    responses.cancel()
    raise AssertionError(f"the request was taken: {first.WhichOneof('event')}")
