"""Puts servicer, health and reflection on one grpc.aio server."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1 import style_transfer_pb2_grpc as pb_grpc

from intarsia_server.rpc.access import Access
from intarsia_server.rpc.decoding import DecodingInterceptor
from intarsia_server.rpc.interceptors import ErrorInterceptor
from intarsia_server.rpc.servicer import StyleTransferServicer

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["StyleTransferService"]
SERVICE = _DESCRIPTOR.full_name
METHODS = tuple(f"/{SERVICE}/{method.name}" for method in _DESCRIPTOR.methods)
"""Full names of the API's calls."""

KEEPALIVE = (
    # A client that a network has swallowed is noticed 25 s after the last that was heard of it, and its calls end.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Of any other ping, which the keepalive's own would wait behind for a minute.
    ("grpc.http2.ping_timeout_ms", 10_000),
    # Connections without calls take up memory too.
    ("grpc.keepalive_permit_without_calls", 1),
)


class Health:
    """grpc.health.v1 for the whole server ("") and for the service; NOT_SERVING until told otherwise."""

    def __init__(self) -> None:
        self.servicer = HealthServicer()

    async def set(self, serving: bool) -> None:
        """Says whether jobs are taken."""
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        for name in ("", SERVICE):
            await self.servicer.set(name, status)


def build_server(
    servicer: StyleTransferServicer,
    health: Health,
    access: Access,
    *,
    max_message_bytes: int,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """A server without an address yet; `interceptors` see every call, those that are let in nowhere too."""
    server = grpc.aio.server(
        interceptors=[*interceptors, *access.interceptors, ErrorInterceptor(), DecodingInterceptor()],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Clients ask every 20 s whether the network is still there; gRPC would take that for an attack.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            *KEEPALIVE,
            # Two servers on one port would share its calls in silence.
            ("grpc.so_reuseport", 0),
        ],
    )
    pb_grpc.add_StyleTransferServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    reflection.enable_server_reflection((SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
    return server
