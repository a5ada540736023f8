"""What a client shows to a server: its token on every call, and never where it could be read on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
from command_line import cli
from fake_server import FakeServer, Script, good_evaluation, good_job
from google.protobuf.message import Message
from intarsia import AsyncClient, Client, RequestError, tls_credentials
from intarsia.v1 import style_transfer_pb2 as pb

TOKEN = "t" * 43


class Seen:
    """The tokens of a scripted server's calls."""

    def __init__(self, serve: Callable[[Script], FakeServer]) -> None:
        self.tokens: list[list[str]] = []
        self.server = serve(self._job)
        self.server.judge = self._judge

    def _job(self, request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterable[Message]:
        self._look(context)
        return good_job(request, context)

    def _judge(self, request: pb.EvaluateRequest, context: grpc.ServicerContext) -> pb.EvaluateResponse:
        self._look(context)
        return good_evaluation(request, context)

    def _look(self, context: Any) -> None:
        self.tokens.append([value for key, value in context.invocation_metadata() if key == "authorization"])


JOB: dict[str, Any] = {"labels": b"labels", "styles": {0: b"brush"}}


@pytest.fixture
def seen(serve: Callable[[Script], FakeServer]) -> Seen:
    return Seen(serve)


def test_token_on_every_call(seen: Seen) -> None:
    with Client(seen.server.address, token=TOKEN) as client:
        client.stylize(b"content", **JOB).result()
        client.evaluate(b"content", b"result", **JOB)
    assert seen.tokens == [[f"Bearer {TOKEN}"]] * 2


def test_token_on_every_call_of_asyncio(seen: Seen) -> None:
    async def run() -> None:
        async with AsyncClient(seen.server.address, token=TOKEN) as client:
            await (await client.stylize(b"content", **JOB)).result()
            await client.evaluate(b"content", b"result", **JOB)

    asyncio.run(run())
    assert seen.tokens == [[f"Bearer {TOKEN}"]] * 2


def test_no_token_unless_told(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTARSIA_TOKEN", TOKEN)  # for the command line alone
    with Client(seen.server.address) as client:
        client.stylize(b"content", **JOB).result()
    assert seen.tokens == [[]]


def test_token_of_the_command_line(seen: Seen, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = ["stylize", "content.png", "--labels", "labels.png", "--style", "0=brush.png"]
    command += ["--server", seen.server.address]
    monkeypatch.setenv("INTARSIA_TOKEN", TOKEN)
    assert cli(*command).exit_code == 0
    (tmp_path / "token").write_text("other\n")
    assert cli(*command, "--token-file", "token").exit_code == 0
    assert seen.tokens == [[f"Bearer {TOKEN}"], ["Bearer other"]]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/nowhere"])
def test_token_may_go_in_plain_text_here(address: str) -> None:
    Client(address, token=TOKEN).close()


@pytest.mark.parametrize("address", ["192.0.2.1:1", "0.0.0.0:1", "localhost.example:1", "[2001:db8::1]:1"])
def test_token_does_not_go_in_plain_text_elsewhere(address: str) -> None:
    with pytest.raises(RequestError, match="use TLS") as raised:
        Client(address, token=TOKEN)
    assert TOKEN not in str(raised.value)
    Client(address, tls_credentials(), TOKEN).close()


@pytest.mark.parametrize("token", ["", "two words", "line\n", "schlüssel"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(RequestError, match="printable ASCII"):
        Client("unix:/nowhere", token=token)


def test_credentials_from_files_that_are_no_pem(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no PEM")
    with pytest.raises(RequestError, match="authority is not usable PEM"):
        tls_credentials(file)
    with pytest.raises(RequestError, match="certificate or key is not usable PEM"):
        tls_credentials(certificate=file, key=file)
    with pytest.raises(RequestError, match="needs its key"):
        tls_credentials(key=file)
    with pytest.raises(FileNotFoundError):
        tls_credentials(tmp_path / "missing")


def test_made_tokens_differ() -> None:
    first, second = (cli("token", "alice") for _ in range(2))
    assert first.stdout.startswith("alice ")
    assert first.stdout != second.stdout
    assert first.stderr.strip() not in first.stdout
    assert cli("token", "no name").exit_code == 2
