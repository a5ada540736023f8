"""The image's health check against servers that speak plain text and TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from deployment import DEPLOY
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bench.trust.certificates import authority, issue

Status = health_pb2.HealthCheckResponse.ServingStatus
ELSEWHERE = (x509.DNSName("*.art.example"),)


@contextmanager
def serving(credentials: grpc.ServerCredentials | None = None, status: Status = Status.SERVING) -> Iterator[int]:
    """A server that is that well; yields its port."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield port
    finally:
        server.stop(None)


def check(port: int, **environment: Path | str) -> subprocess.CompletedProcess[str]:
    """Runs the health check as the image does, by the server's settings."""
    of_the_server = {"INTARSIA_ADDRESS": f"0.0.0.0:{port}"} | {name: str(value) for name, value in environment.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("INTARSIA_")}
    command = (sys.executable, DEPLOY / "image" / "health.py")
    return subprocess.run(command, env=kept | of_the_server, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("status", "code"), [(Status.SERVING, 0), (Status.NOT_SERVING, 1)])
def test_plain_text(status: Status, code: int) -> None:
    with serving(status=status) as port:
        answer = check(port)
    assert answer.returncode == code
    assert answer.stdout.strip() == Status.Name(status)


def test_nobody_there() -> None:
    with serving() as port:
        pass
    answer = check(port)
    assert answer.returncode == 1
    assert answer.stderr.startswith("UNAVAILABLE")
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(("status", "code"), [(Status.SERVING, 0), (Status.NOT_SERVING, 1)])
def test_tls_whatever_the_name(tmp_path: Path, status: Status, code: int) -> None:
    """A certificate names the host that clients know, not the loopback that a container asks itself on."""
    identity = issue(authority(), "server", ELSEWHERE)
    certificate, key = identity.write(tmp_path, "server")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with serving(credentials, status) as port:
        answer = check(port, INTARSIA_TLS_CERTIFICATE=certificate, INTARSIA_TLS_KEY=key)
    assert answer.returncode == code, answer.stderr
    assert answer.stdout.strip() == Status.Name(status)


def test_another_certificate_than_the_servers(tmp_path: Path) -> None:
    certificate, key = issue(authority(), "server").write(tmp_path, "server")
    other, _ = issue(authority(), "server").write(tmp_path, "other")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with serving(credentials) as port:
        answer = check(port, INTARSIA_TLS_CERTIFICATE=other, INTARSIA_TLS_KEY=key)
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(("shown", "status", "code"), [(True, Status.NOT_SERVING, 1), (False, Status.NOT_SERVING, 0)])
def test_client_certificates(tmp_path: Path, shown: bool, status: Status, code: int) -> None:
    """Without one of its own the check can only see that the server shakes hands."""
    ca = authority()
    ca_file, _ = ca.write(tmp_path, "ca")
    certificate, key = issue(ca, "server", ELSEWHERE).write(tmp_path, "server")
    mine, my_key = issue(ca, "health").write(tmp_path, "health")
    pair = [(key.read_bytes(), certificate.read_bytes())]
    credentials = grpc.ssl_server_credentials(pair, ca_file.read_bytes(), require_client_auth=True)
    settings = {"INTARSIA_TLS_CERTIFICATE": certificate, "INTARSIA_TLS_KEY": key, "INTARSIA_TLS_CLIENT_CA": ca_file}
    if shown:
        settings |= {"INTARSIA_CLIENT_CERTIFICATE": mine, "INTARSIA_CLIENT_KEY": my_key}
    with serving(credentials, status) as port:
        answer = check(port, **settings)
    assert answer.returncode == code, answer.stderr
    assert (Status.Name(status) in answer.stdout) == shown
