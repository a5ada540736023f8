"""Who a caller is taken for, by token, certificate or address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from intarsia.credentials import tls_credentials
from intarsia_server.rpc.authentication import TokenInterceptor
from intarsia_server.rpc.callers import Caller, caller_of
from intarsia_server.rpc.certificates import Certificates
from intarsia_server.rpc.tokens import Tokens
from server_process import LONG
from server_tokens import hashed

from bench.trust.certificates import authority, issue

SPIFFE = "spiffe://example.org/styler"


async def _name_caller(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    caller = caller_of(context)
    return f"{caller.client}|{caller.owner}".encode()


def callers(
    address: str,
    call: Callable[[str], Awaitable[Caller]],
    *,
    tokens: Tokens | None = None,
    certificates: Certificates | None = None,
) -> Caller:
    """What `call` gets to hear from a server at that address; it is given the port's address."""

    async def run() -> Caller:
        server = grpc.aio.server(interceptors=[TokenInterceptor(tokens)] if tokens else [])
        method = grpc.unary_unary_rpc_method_handler(_name_caller)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Callers", {"Name": method}),))
        if certificates is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, certificates.credentials())
        await server.start()
        try:
            return await call(address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}")
        finally:
            await server.stop(0)

    return asyncio.run(run())


def plainly(token: str = "") -> Callable[[str], Awaitable[Caller]]:
    async def call(address: str) -> Caller:
        async with grpc.aio.insecure_channel(address) as channel:
            return await _ask(channel, token)

    return call


async def _ask(channel: grpc.aio.Channel, token: str = "") -> Caller:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    answer: bytes = await channel.unary_unary("/test.Callers/Name")(b"", metadata=metadata, timeout=LONG)
    client, _, owner = answer.decode().partition("|")
    return Caller(client, owner)


@pytest.mark.parametrize(
    ("address", "client"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("unix:{folder}/s", "unix")]
)
def test_nobody_in_particular(short_folder: Path, address: str, client: str) -> None:
    assert callers(address.format(folder=short_folder), plainly()) == Caller(client, "")


def test_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# two of them\n\nalice {hashed('a' * 43)}\nbob\t{hashed('b' * 43).upper()}\n")
    tokens = Tokens(file)
    assert callers("127.0.0.1:0", plainly("a" * 43), tokens=tokens) == Caller("alice", "alice")
    assert callers("127.0.0.1:0", plainly("b" * 43), tokens=tokens) == Caller("bob", "bob")


@pytest.mark.parametrize(
    ("subject", "alternatives", "owner"),
    [
        ("alice", (), "subject:CN=alice"),
        ("alice", (x509.DNSName("host"),), "subject:CN=alice"),
        ("anybody", (x509.UniformResourceIdentifier(SPIFFE),), f"uri:{SPIFFE}"),
        ("", (x509.DNSName("host"),), "name:host"),
    ],
)
def test_certificate(tmp_path: Path, subject: str, alternatives: tuple[x509.GeneralName, ...], owner: str) -> None:
    assert _by_certificate(tmp_path, subject, alternatives) == Caller(owner, owner)


def test_certificate_that_names_nobody(tmp_path: Path) -> None:
    first, second = (_by_certificate(tmp_path, "", ()) for _ in range(2))
    assert first.owner.startswith("sha256:")
    assert first.owner != second.owner


def _by_certificate(folder: Path, subject: str, alternatives: tuple[x509.GeneralName, ...]) -> Caller:
    ca = authority()
    ca_file, _ = ca.write(folder, "ca")
    credentials = tls_credentials(ca_file, *issue(ca, subject, alternatives).write(folder, "client"))

    async def call(address: str) -> Caller:
        async with grpc.aio.secure_channel(address, credentials) as channel:
            return await _ask(channel)

    certificates = Certificates(*issue(ca, "server").write(folder, "server"), ca_file)
    return callers("127.0.0.1:0", call, certificates=certificates)
