"""Clients that are gone, and clients that come back, with real processes; without timing any."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from intarsia import Client, IntarsiaError
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.trust.clients import STEPS, killed_client
from bench.trust.proxy import FaultProxy
from bench.trust.samples import stylize_request
from bench.trust.server import Server, running_server

PATIENCE = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server(threads=1) as server:
        server.wait_until_ready()
        yield server


def test_next_job_runs_once_a_client_is_killed(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        assert killed_client(server.address, StyleTransferServiceStub(channel)) < PATIENCE


@pytest.mark.parametrize("fault", ["cut", "reset"])
def test_client_whose_connection_breaks_comes_back(server: Server, fault: str) -> None:
    """To the same job if it is quick enough; on a busy machine it may have to send it anew."""
    request = stylize_request()
    request.masked_gram.steps = STEPS
    with FaultProxy(server.address) as proxy, Client(proxy.address) as client:
        with client.start(request) as job:
            first = next(job)
            getattr(proxy, fault)()
            second = next(job)
            same = job.job_id == first.accepted.job_id
            assert second.sequence == (2 if same else 1)
        with pytest.raises(IntarsiaError, match="CANCELLED"):
            list(client.watch(job.job_id))
