"""A server with tokens lets nobody in without one, says nothing of why, and keeps none in its log."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from intarsia import Client, IntarsiaError
from intarsia.cli import app
from intarsia.v1 import style_transfer_pb2 as pb
from server_jobs import long_request, tiny_request
from server_process import LONG, SERVING, ServerProcess, eventually, running_server
from server_tokens import bearer, hashed, line
from typer.testing import CliRunner

ALICE, BOB, NOBODY = (letter * 43 for letter in "abn")
STYLIZE = "/intarsia.v1.StyleTransferService/Stylize"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that knows Alice's token."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(line("alice", ALICE))
    with running_server(tokens_file=file) as server:
        server.wait_for_log("listening on")
        yield server


def _error(call: Callable[[], Any]) -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer(NOBODY),
        bearer(""),
        bearer(ALICE[:-1]),
        bearer(hashed(ALICE)),
        bearer(ALICE) + bearer(ALICE),
        (("authorization", ALICE),),
        (("authorization", f"Basic {ALICE}"),),
    ],
    ids=["none", "wrong", "empty", "cut", "hash", "twice", "no scheme", "other scheme"],
)
def test_refused_alike(guarded: ServerProcess, metadata: tuple[tuple[str, str], ...]) -> None:
    before = guarded.log
    with guarded.stub() as stub:
        error = _error(lambda: stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata, timeout=LONG))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error.details() == "a valid token is needed"
    assert not [key for key, _ in error.trailing_metadata() if key not in {"content-length", "date"}]
    written = guarded.log.removeprefix(before)
    assert written.count("refused") == 1
    _assert_tells_nothing(written)


def test_refused_before_anything_is_read(guarded: ServerProcess) -> None:
    before = guarded.log
    with guarded.channel() as channel:
        error = _error(lambda: next(channel.unary_stream(STYLIZE)(b"\xff no message", timeout=LONG)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        error = _error(lambda: channel.unary_unary("/intarsia.v1.Other/Thing")(b"", timeout=LONG))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    with guarded.stub() as stub:
        error = _error(lambda: next(stub.Stylize(tiny_request(), timeout=LONG)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "accepted" not in guarded.log.removeprefix(before)


def test_enters_with_its_token(guarded: ServerProcess) -> None:
    with guarded.stub() as stub:
        assert stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=bearer(ALICE), timeout=LONG).versions
    with Client(guarded.address, token=ALICE) as client:
        assert client.server_info().versions
    with Client(guarded.address, token=NOBODY) as client, pytest.raises(IntarsiaError) as raised:
        client.server_info()
    assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED
    _assert_tells_nothing(guarded.log)


def test_health_is_for_everybody_and_reflection_is_not(guarded: ServerProcess) -> None:
    eventually(lambda: guarded.health() == SERVING, "the server to be ready")
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with guarded.channel() as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        error = _error(lambda: next(stub.ServerReflectionInfo(iter([request]), timeout=LONG)))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        (listing,) = stub.ServerReflectionInfo(iter([request]), metadata=bearer(ALICE), timeout=LONG)
    assert listing.list_services_response.service


def test_command_line(guarded: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTARSIA_TOKEN", raising=False)
    command = ["info", "--server", guarded.address]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "a valid token is needed" in refused.stderr
    (tmp_path / "token").write_text(f"{ALICE}\n")
    assert CliRunner().invoke(app, [*command, "--token-file", str(tmp_path / "token")]).exit_code == 0
    monkeypatch.setenv("INTARSIA_TOKEN", ALICE)
    assert CliRunner().invoke(app, command).exit_code == 0


def test_tokens_that_the_command_makes(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["token", "carol"])
    (tmp_path / "tokens").write_text(made.stdout)
    server = start_server(tokens_file=tmp_path / "tokens")
    server.wait_for_log("listening on")
    with Client(server.address, token=made.stderr.strip()) as client:
        assert client.server_info().versions


def test_read_again(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(line("alice", ALICE))
    server = start_server(tokens_file=file, heartbeat_seconds=0.1)
    server.wait_for_log("listening on")
    with (
        Client(server.address, token=ALICE) as alice,
        Client(server.address, token=BOB) as bob,
        alice.start(long_request()) as job,
    ):
        assert next(job).HasField("accepted")
        file.write_text(line("bob", BOB))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("tokens read again")
        assert bob.server_info().versions
        with pytest.raises(IntarsiaError, match="UNAUTHENTICATED"):
            alice.server_info()
        for _ in range(5):  # what had been let in goes on
            next(job)
        file.write_text(f"{line('bob', BOB)}alice {ALICE}\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("tokens stay as they were: INTARSIA_TOKENS_FILE: line 2")
        assert bob.server_info().versions
        file.unlink()
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("tokens stay as they were: INTARSIA_TOKENS_FILE: No such file")
        assert bob.server_info().versions
        next(job)
    _assert_tells_nothing(server.log)
    assert str(tmp_path) not in server.log


def _assert_tells_nothing(log: str) -> None:
    for token in (ALICE, BOB, NOBODY):
        assert token[:-1] not in log
        assert hashed(token) not in log
    assert "Traceback" not in log
