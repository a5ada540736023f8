"""TLS and client certificates: who gets in, what is said about those who do not, and how files are read again."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from intarsia import Client, tls_credentials
from intarsia.cli import app
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from server_jobs import long_request
from server_process import LONG, ServerProcess, eventually, running_server
from typer.testing import CliRunner

from bench.trust.certificates import Identity, authority, issue


@dataclass
class Place:
    """A folder of certificates, and a server that uses some of them: server.pem, server.key, ca.pem."""

    folder: Path
    ca: Identity
    server: ServerProcess

    def credentials(self, identity: Identity | None = None, *, ca: str = "ca.pem") -> grpc.ChannelCredentials:
        """Of a client with that certificate."""
        shown = identity.write(self.folder, "client") if identity else ()
        return tls_credentials(self.folder / ca, *shown)

    def client(self, identity: Identity | None = None, *, ca: str = "ca.pem") -> Client:
        return Client(self.server.address, self.credentials(identity, ca=ca))

    def refused(self, credentials: grpc.ChannelCredentials | None) -> None:
        """A call with those credentials never gets in, and leaves one line in the log at most."""
        before = self.server.log
        options = (("grpc.use_local_subchannel_pool", 1),)
        address = self.server.address
        with (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        ) as channel:
            with pytest.raises(grpc.RpcError) as raised:
                StyleTransferServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=LONG)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        lines = [line for line in self.server.log.removeprefix(before).splitlines() if "worker" not in line]
        assert len(lines) <= 1, lines
        self.assert_nothing_leaked()

    def assert_nothing_leaked(self) -> None:
        assert "Traceback" not in self.server.log
        assert "BEGIN" not in self.server.log
        assert str(self.folder) not in self.server.log


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Place]:
    """Runs a server with a certificate of a new authority's."""
    ca = authority()
    ca.write(folder, "ca")
    certificate, key = issue(ca, "server").write(folder, "server")
    settings |= {"tls_certificate": certificate, "tls_key": key, "heartbeat_seconds": 0.1}
    with running_server(address=f"127.0.0.1:{free_port()}", **settings) as server:
        server.wait_for_log("listening on")
        yield Place(folder, ca, server)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With a server that asks for certificates."""
    folder = tmp_path_factory.mktemp("tls")
    with serving(folder, tls_client_ca=folder / "ca.pem") as place:
        yield place


@pytest.fixture
def open_place(tmp_path: Path) -> Iterator[Place]:
    """With a server that asks for none."""
    with serving(tmp_path) as place:
        yield place


def test_certificate_of_the_authority(place: Place) -> None:
    with place.client(issue(place.ca, "alice")) as client:
        client.wait_ready(LONG)
        assert client.server_info().versions


def test_no_certificate(place: Place) -> None:
    place.refused(place.credentials())


def test_expired_certificate(place: Place) -> None:
    place.refused(place.credentials(issue(place.ca, "alice", days=-1)))


def test_certificate_of_another_authority(place: Place) -> None:
    place.refused(place.credentials(issue(authority(), "alice")))


def test_plain_text_to_a_tls_port(place: Place) -> None:
    place.refused(None)


def test_serves_after_all_refusals(place: Place) -> None:
    place.refused(None)
    test_certificate_of_the_authority(place)


def test_tls_alone(open_place: Place) -> None:
    with open_place.client() as client:
        assert client.server_info().versions
    authority().write(open_place.folder, "other")
    open_place.refused(open_place.credentials(ca="other.pem"))
    open_place.refused(None)


def test_command_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = map(str, issue(place.ca, "alice").write(place.folder, "command"))
    ca = str(place.folder / "ca.pem")
    command = ["info", "--server", place.server.address]
    flags = ["--tls-ca", ca, "--tls-certificate", certificate, "--tls-key", key]
    assert CliRunner().invoke(app, command + flags).exit_code == 0
    variables = {"INTARSIA_TLS_CA": ca, "INTARSIA_CLIENT_CERTIFICATE": certificate, "INTARSIA_CLIENT_KEY": key}
    assert CliRunner().invoke(app, command, env=variables).exit_code == 0
    half = CliRunner().invoke(app, [*command, "--tls-certificate", certificate])
    assert (half.exit_code, "a certificate needs its key" in half.stderr) == (2, True)
    missing = CliRunner().invoke(app, [*command, "--tls-ca", "missing.pem"])
    assert (missing.exit_code, "missing.pem: No such file" in missing.stderr) == (2, True)


def test_certificate_is_read_again(open_place: Place) -> None:
    folder, server = open_place.folder, open_place.server
    fresh = authority("fresh")
    fresh.write(folder, "fresh")
    with open_place.client() as before, before.start(long_request()) as job:
        assert next(job).HasField("accepted")
        issue(fresh, "server").write(folder, "server")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("certificates read again")
        with open_place.client(ca="fresh.pem") as client:
            assert client.server_info().versions
        open_place.refused(open_place.credentials())

        issue(fresh, "server").write(folder, "other")
        (folder / "other.key").rename(folder / "server.key")  # another's key
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("certificates stay as they were: INTARSIA_TLS_CERTIFICATE, INTARSIA_TLS_KEY")
        (folder / "server.pem").unlink()
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.log.count("stay as they were") == 2, "the second refusal to reload")
        with open_place.client(ca="fresh.pem") as client:
            assert client.server_info().versions
        for _ in range(5):  # the call from before goes on, over the connection from before
            next(job)
    open_place.assert_nothing_leaked()


def test_client_authority_is_read_again(tmp_path: Path) -> None:
    (first, second) = (authority(name) for name in ("first", "second"))
    first.write(tmp_path, "clients")
    with serving(tmp_path, tls_client_ca=tmp_path / "clients.pem") as place:
        with place.client(issue(first, "alice")) as client:
            assert client.server_info().versions
        place.refused(place.credentials(issue(second, "bob")))
        second.write(tmp_path, "clients")
        place.server.process.send_signal(signal.SIGHUP)
        place.server.wait_for_log("certificates read again")
        place.refused(place.credentials(issue(first, "carol")))
        with place.client(issue(second, "bob")) as client:
            assert client.server_info().versions
