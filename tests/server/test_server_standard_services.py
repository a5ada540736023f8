"""What stands around the jobs: health, reflection, information, and which process holds torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import long_request, read_until, run_job, tiny_request
from server_process import LONG, NOT_SERVING, SERVING, ServerProcess, has_loaded_torch

SERVICE = "intarsia.v1.StyleTransferService"


@contextmanager
def watching(server: ServerProcess, service: str) -> Iterator[Iterator[int]]:
    """The statuses of a service as they change, the present one first."""
    with server.channel() as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        responses = health_pb2_grpc.HealthStub(channel).Watch(request, wait_for_ready=True, timeout=LONG)
        yield (response.status for response in responses)
        responses.cancel()


def test_not_serving_until_the_encoder_is_loaded(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_for_log("listening on")
    with watching(server, "") as whole, watching(server, SERVICE) as service:
        assert (next(whole), next(service)) == (NOT_SERVING, NOT_SERVING)
        assert (next(whole), next(service)) == (SERVING, SERVING)
    assert server.workers()


def test_not_serving_from_the_drain_on(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(drain_seconds=LONG)
    server.wait_until_ready()
    with watching(server, "") as whole, watching(server, SERVICE) as service, server.stub() as stub:
        assert (next(whole), next(service)) == (SERVING, SERVING)
        running = stub.Stylize(long_request(), timeout=LONG)
        read_until(running, "progress")
        server.terminate()
        assert (next(whole), next(service)) == (NOT_SERVING, NOT_SERVING)
        running.cancel()
    assert server.wait_for_end() == 0


def test_job_from_before_the_encoder_is_loaded(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_for_log("listening on")
    with server.stub() as stub:
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LONG)
        assert not info.devices
        assert run_job(stub, tiny_request(steps=1)).image


def test_health_of_an_unknown_service(server: ServerProcess) -> None:
    with server.channel() as channel, pytest.raises(grpc.RpcError) as raised:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="other"), timeout=LONG)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(server: ServerProcess) -> None:
    requests = (
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    )
    with server.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing, file = stub.ServerReflectionInfo(iter(requests), timeout=LONG)
    names = {service.name for service in listing.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    assert any(pb.DESCRIPTOR.serialized_pb == data for data in file.file_descriptor_response.file_descriptor_proto)


def test_server_info(stub: StyleTransferServiceStub) -> None:
    info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LONG)
    assert {"intarsia", "torch", "torchvision", "grpcio", "python"} <= set(info.versions)
    assert all(info.versions.values())
    assert info.default_encoder == "embedded"
    assert list(info.encoders) == ["embedded", "torchvision"]
    assert info.ops
    assert info.default_precision in {pb.PRECISION_FP32, pb.PRECISION_BF16}
    assert (info.queued_jobs, info.running_jobs, info.queue_capacity) == (0, 0, 16)
    assert (info.max_pixels, info.max_message_bytes) == (36_000_000, 4 * 2**20)
    assert {"gatys", "masked-gram", "sequential", "sequential-smooth", "single-shot"} <= set(info.methods)
    (device,) = info.devices
    assert (device.name, device.threads) == ("cpu", 1)
    assert device.description
    assert device.memory_bytes > 2**28
    assert 2**27 < device.used_memory_bytes < device.memory_bytes
    assert info.max_upload_bytes == 256 * 2**20
    assert 0 < info.uptime.ToTimedelta().total_seconds() < 3600


def test_server_info_counts_jobs(stub: StyleTransferServiceStub) -> None:
    running = stub.Stylize(long_request(), timeout=LONG)
    read_until(running, "progress")
    waiting = stub.Stylize(tiny_request(), timeout=LONG)
    read_until(waiting, "accepted")
    info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=LONG)
    assert (info.queued_jobs, info.running_jobs) == (1, 1)
    waiting.cancel()
    running.cancel()


def test_only_the_worker_loads_torch(server: ServerProcess, stub: StyleTransferServiceStub) -> None:
    run_job(stub, tiny_request(steps=1))
    assert not has_loaded_torch(server.process.pid)
    (worker,) = server.workers()
    assert has_loaded_torch(worker)
