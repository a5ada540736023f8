#!/opt/intarsia/bin/python
"""Asks the server in this container how it is, by grpc.health.v1. Exit code 0: SERVING; 1: not.

It finds the server by the server's own settings. To one that speaks TLS it shows INTARSIA_CLIENT_CERTIFICATE and
INTARSIA_CLIENT_KEY, if there are any. Where the server wants a client's certificate and there is none to show, that
it shows its own is all that can be asked.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 4


def local(address: str) -> str:
    """Where to reach, from this machine, a server that listens there."""
    host, _, port = address.rpartition(":")
    if address.startswith("unix:") or host.strip("[]") not in {"0.0.0.0", "::", ""}:
        return address
    return f"localhost:{port}"


def name_on_certificate(address: str, certificate: Path) -> str:
    """Shakes hands with the server, which has to show this very certificate; returns the first name on it.

    Raises:
        OSError: it does not answer, or shows another one.
    """
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    with (
        socket.create_connection((host.strip("[]"), int(port)), SECONDS) as plain,
        context.wrap_socket(plain) as secure,
    ):
        shown = secure.getpeercert() or {}
    names = [name for _, name in shown.get("subjectAltName", ())]
    return names[0].replace("*", "health") if names else host


def channel(settings: Mapping[str, str]) -> grpc.Channel | None:
    """A channel to the server; None: it wants a certificate that is not here.

    Raises:
        OSError: a file cannot be read, or the server does not show its certificate.
    """
    address = local(settings.get("INTARSIA_ADDRESS") or "127.0.0.1:50051")
    certificate = settings.get("INTARSIA_TLS_CERTIFICATE")
    if not certificate:
        return grpc.insecure_channel(address)
    name = name_on_certificate(address, Path(certificate))
    mine = [settings.get(variable) for variable in ("INTARSIA_CLIENT_CERTIFICATE", "INTARSIA_CLIENT_KEY")]
    if settings.get("INTARSIA_TLS_CLIENT_CA") and not all(mine):
        return None
    shown, key = (Path(file).read_bytes() if file else None for file in mine)
    credentials = grpc.ssl_channel_credentials(Path(certificate).read_bytes(), key, shown)
    return grpc.secure_channel(address, credentials, (("grpc.ssl_target_name_override", name),))


def main() -> int:
    """Asks, and says what it was told if that is not SERVING."""
    try:
        opened = channel(os.environ)
        if opened is None:
            return 0
        with opened:
            answer = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    except grpc.RpcError as error:
        print(error.code().name, error.details(), file=sys.stderr)
        return 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
