"""The fuzzers in short: rubbish is refused as such or served. `python -m bench.trust fuzz` does the same at length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import decode_rgb
from intarsia_server.rpc.requests import (
    to_estimated_request,
    to_evaluation_request,
    to_request_id,
    to_segmentation_request,
    to_transfer_request,
)

from bench.trust import fuzz_pictures, fuzz_requests
from bench.trust.mutants import mutated_picture
from bench.trust.samples import pictures, requests

CHANCE = st.randoms(use_true_random=False)
ENCODERS = {"default_encoder": "embedded", "encoders": ("embedded",)}


@settings(max_examples=150, deadline=None)
@given(CHANCE)
def test_a_mutated_picture_is_refused_or_taken(chance: random.Random) -> None:
    fuzz_pictures.is_taken(chance)


def convert(method: str, data: bytes) -> object:
    """As the servicer does."""
    message = type(requests()[method]).FromString(data)
    match message:
        case pb.StylizeRequest():
            return to_request_id(message), to_transfer_request(message, **ENCODERS)
        case pb.EstimateRequest():
            return to_estimated_request(message, **ENCODERS)
        case pb.EvaluateRequest():
            return to_evaluation_request(message, **ENCODERS)
        case pb.SegmentRequest():
            return to_segmentation_request(message)
    raise AssertionError(method)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["Stylize", "Estimate", "Evaluate", "Segment"]), CHANCE)
def test_a_fuzzed_request_is_refused_or_converted(method: str, chance: random.Random) -> None:
    data = fuzz_requests.fuzzed_request(method, chance)
    with suppress(DecodeError, InvalidInputError):
        convert(method, data)


def test_pictures_in_a_process_of_their_own() -> None:
    found = fuzz_pictures.fuzz_pictures(600, seed=1, batch=200)
    assert (found.defects, found.crashes) == ([], 0)
    assert found.taken > 30
    assert found.refused > 400
    assert found.growth < 100e6


def test_requests_through_the_socket() -> None:
    found = fuzz_requests.fuzz_requests(400, seed=1, per_round=200)
    assert (found.defects, found.crashes, found.unserved) == ([], 0, 0)
    assert found.statuses["INVALID_ARGUMENT"] > 100
    assert found.statuses["OK"] > 10
    assert found.growth < 200e6


def test_the_samples_are_good_as_they_are() -> None:
    for name, data in pictures().items():
        if name != "tiff float":  # refused for its pixel format
            assert decode_rgb(data, name, max_pixels=fuzz_pictures.MAX_PIXELS).pixels.shape == (64, 64, 3)
    for method in ("Stylize", "Estimate", "Evaluate", "Segment"):
        convert(method, requests()[method].SerializeToString())


def test_a_seed_brings_its_mutant_back() -> None:
    for seed in range(20):
        assert mutated_picture(random.Random(seed)) == mutated_picture(random.Random(seed))
        first, again = (fuzz_requests.fuzzed_request("Stylize", random.Random(seed)) for _ in range(2))
        assert first == again


def test_a_defect_in_what_looks_at_pictures_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(picture: bytes) -> object:
        raise KeyError(len(picture))

    monkeypatch.setattr(fuzz_pictures, "PLACES", {"broken": check})
    found, _ = fuzz_pictures.check_batch(range(3))
    assert [defect.splitlines()[0] for defect in found.defects] == ["seed 0", "seed 1", "seed 2"]
    assert "KeyError" in found.defects[0]


class BrokenServer(grpc.GenericRpcHandler):
    """Fails at whatever it is asked."""

    def service(self, handler_call_details: Any) -> Any:
        del handler_call_details

        def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
            raise ValueError(len(request))

        return grpc.unary_unary_rpc_method_handler(fail)


@pytest.fixture
def broken_server(tmp_path: Path) -> Iterator[Any]:
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[BrokenServer()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    log = tmp_path / "log"
    log.write_text("worker process for cpu died; starting another")
    yield SimpleNamespace(address=f"127.0.0.1:{port}", alive=True, memory=0, log_file=log)
    server.stop(None).wait()


def test_a_server_that_fails_is_found_out(broken_server: Any) -> None:
    found = fuzz_requests.fuzz_server(broken_server, range(6), ["GetServerInfo"], per_round=3)
    assert found.statuses == {"UNKNOWN": 6}
    assert len(found.defects) == 6
    assert (found.crashes, found.unserved) == (1, 2)
