"""Whoever may not enter, is refused with one line in the log and learns nothing: real processes, TLS and tokens."""

from __future__ import annotations

import hashlib
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from intarsia import tls_credentials
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub

from bench.report import Figure, Report
from bench.trust.certificates import Identity, authority, issue
from bench.trust.options import Options
from bench.trust.samples import stylize_request
from bench.trust.server import Server, running_server

Metadata = tuple[tuple[str, str], ...]

SETTLING_SECONDS = 1.0
"""Within which whatever a refusal leaves in the log is there."""


def run(options: Options) -> Iterator[Report]:
    """Tries every wrong way in, once."""
    del options
    with tempfile.TemporaryDirectory(prefix="intarsia-") as folder:
        tried = _tried(Path(folder))
    figures = [
        Figure(name=f"{what}: not refused, not one log line, or something leaked", goal=0, measured=len(defects))
        for what, defects in tried.items()
    ]
    yield Report(name="intruders", figures=figures, facts={"defects": tried})


def _tried(folder: Path) -> dict[str, list[str]]:
    """What is wrong with each refusal."""
    ca = authority()
    certificate, key = issue(ca, "server").write(folder, "server")
    secret = {name: secrets.token_urlsafe(32) for name in ("alice", "bob", "nobody")}
    hashes = (f"{name} {hashlib.sha256(secret[name].encode()).hexdigest()}\n" for name in ("alice", "bob"))
    (folder / "tokens").write_text("".join(hashes))
    settings = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": ca.write(folder, "ca")[0]}
    address = f"127.0.0.1:{_free_port()}"
    with running_server(address, tokens_file=folder / "tokens", threads=1, **settings) as server:
        _wait_for(server, "ready")
        door = Door(server, folder, ca, tuple(secret.values()))
        right, alice, bob = door.credentials(), _bearer(secret["alice"]), _bearer(secret["bob"])
        with door.channel(right) as channel:
            call = StyleTransferServiceStub(channel).Stylize(stylize_request(), metadata=alice)
            job_id = next(call).accepted.job_id
            list(call)

        def ask(stub: StyleTransferServiceStub, metadata: Metadata) -> object:
            return stub.GetJob(pb.GetJobRequest(job_id=job_id), metadata=metadata, timeout=10)

        if ask_error := door.error(right, lambda stub: ask(stub, alice)):
            raise RuntimeError(f"the owner does not get in: {ask_error}")
        unauthenticated, unavailable = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE
        expired = door.credentials(issue(ca, "alice", days=-1))
        return {
            "no token": door.refuses(right, lambda stub: ask(stub, ()), unauthenticated),
            "wrong token": door.refuses(right, lambda stub: ask(stub, _bearer(secret["nobody"])), unauthenticated),
            "other owner's job": door.refuses(right, lambda stub: ask(stub, bob), grpc.StatusCode.NOT_FOUND),
            "expired certificate": door.refuses(expired, lambda stub: ask(stub, alice), unavailable),
            "plain text to a TLS port": door.refuses(None, lambda stub: ask(stub, alice), unavailable),
        }


@dataclass(frozen=True)
class Door:
    """A server that lets in those alone who have a certificate and a token.

    Attributes:
        server: that runs.
        folder: of the certificates.
        ca: the authority of all of them.
        tokens: which nobody may be told of.
    """

    server: Server
    folder: Path
    ca: Identity
    tokens: tuple[str, ...]

    def credentials(self, identity: Identity | None = None) -> grpc.ChannelCredentials:
        """Of a client with that certificate; None: a good one."""
        shown = (identity or issue(self.ca, "client")).write(self.folder, "client")
        return tls_credentials(self.folder / "ca.pem", *shown)

    def channel(self, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        """A connection of its own; None: in plain text."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        if credentials is None:
            return grpc.insecure_channel(self.server.address, options)
        return grpc.secure_channel(self.server.address, credentials, options)

    def error(
        self, credentials: grpc.ChannelCredentials | None, call: Callable[[StyleTransferServiceStub], object]
    ) -> grpc.RpcError | None:
        """What a call ends with; None: it got through."""
        with self.channel(credentials) as channel:
            try:
                call(StyleTransferServiceStub(channel))
            except grpc.RpcError as error:
                return error
        return None

    def refuses(
        self,
        credentials: grpc.ChannelCredentials | None,
        call: Callable[[StyleTransferServiceStub], object],
        status: grpc.StatusCode,
    ) -> list[str]:
        """What is wrong with how a call is refused."""
        before = self.server.log_file.read_text()
        error = self.error(credentials, call)
        time.sleep(SETTLING_SECONDS)
        log = self.server.log_file.read_text().removeprefix(before)
        defects = [] if len(log.splitlines()) == 1 else [f"{len(log.splitlines())} lines in the log: {log}"]
        if not isinstance(error, grpc.Call):
            return [*defects, "it got through"]
        if error.code() is not status:
            defects.append(f"{error.code()} instead of {status}")
        said = f"{error.details()}\n{log}"
        leaks = (*self.tokens, str(self.folder), "Traceback", "BEGIN", ".py")
        return [*defects, *(f"it says {leak}: {said}" for leak in leaks if leak in said)]


def _bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def _wait_for(server: Server, word: str) -> None:
    """Until the log says so: nobody else can ask it."""
    deadline = time.monotonic() + 60
    while f" {word}\n" not in server.log_file.read_text():
        if not server.alive or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not start:\n{server.log_file.read_text()}")
        time.sleep(0.1)
