"""What a server refuses to start with: plain text for strangers, and files that would let in nobody, or anybody."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from server_process import LONG, ServerProcess, server_environment
from server_tokens import line

from bench.trust.certificates import authority, issue

EVERYWHERE = "0.0.0.0:0"
TOKEN = "t" * 43


def _start(folder: Path, address: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """A server that must end by itself, without a trace of where its files lie or of what they hold."""
    ended = subprocess.run(
        [sys.executable, "-m", "intarsia_server", "--address", address],
        env=server_environment(folder, **settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert ended.returncode != 0
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert not [word for word in ("Traceback", str(folder), "BEGIN", TOKEN) if word in ended.stderr], ended.stderr
    return ended


@pytest.mark.parametrize("address", [EVERYWHERE, "[::]:0", "192.0.2.1:50051", "host.example:50051"])
def test_plain_text_for_strangers(tmp_path: Path, address: str) -> None:
    ended = _start(tmp_path, address)
    assert (ended.returncode, "INTARSIA_PLAINTEXT=allowed" in ended.stderr) == (2, True)


def test_plain_text_for_strangers_that_is_wanted(start_server: Callable[..., ServerProcess]) -> None:
    start_server(address=EVERYWHERE, plaintext="allowed").wait_for_log("listening on")


def test_plain_text_that_is_neither_refused_nor_allowed(tmp_path: Path) -> None:
    ended = _start(tmp_path, EVERYWHERE, plaintext="perhaps")
    assert (ended.returncode, "INTARSIA_PLAINTEXT" in ended.stderr) == (2, True)


def test_tokens_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(line("alice", TOKEN))
    ended = _start(tmp_path, EVERYWHERE, tokens_file=tmp_path / "tokens", plaintext="allowed")
    assert (ended.returncode, "INTARSIA_TOKENS_FILE" in ended.stderr) == (2, True)


def test_tls_for_strangers_with_empty_variables(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    certificate, key = issue(authority(), "server").write(tmp_path, "server")
    server = start_server(
        address=EVERYWHERE, tls_certificate=certificate, tls_key=key, tls_client_ca="", tokens_file=""
    )
    server.wait_for_log("listening on")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tls_certificate"}, "INTARSIA_TLS_KEY"),
        ({"tls_key"}, "INTARSIA_TLS_CERTIFICATE"),
        ({"tls_client_ca"}, "INTARSIA_TLS_CLIENT_CA"),
    ],
)
def test_half_of_what_tls_needs(tmp_path: Path, given: set[str], named: str) -> None:
    ended = _start(tmp_path, "127.0.0.1:0", **dict.fromkeys(given, tmp_path / "file"))
    assert (ended.returncode, named in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    ("setting", "content"),
    [
        ("tls_certificate", None),
        ("tls_certificate", b"no PEM"),
        ("tls_key", None),
        ("tls_key", authority().key_pem()),
        ("tls_key", authority().key_pem(password=b"secret")),
        ("tls_client_ca", None),
        ("tls_client_ca", b""),
        ("tls_client_ca", b"\xff"),
        ("tokens_file", None),
        ("tokens_file", b""),
        ("tokens_file", b"# nobody yet\n"),
        ("tokens_file", f"alice {TOKEN}\n".encode()),
        ("tokens_file", b"\xff\xfe"),
    ],
)
def test_file_that_is_not_what_it_should_be(tmp_path: Path, setting: str, content: bytes | None) -> None:
    ca = authority()
    certificate, key = issue(ca, "server").write(tmp_path, "server")
    files = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": ca.write(tmp_path, "ca")[0]}
    file = files[setting] = tmp_path / "bad"
    if content is not None:
        file.write_bytes(content)
    ended = _start(tmp_path, "127.0.0.1:0", **files)
    assert (ended.returncode, f"INTARSIA_{setting.upper()}" in ended.stderr) == (1, True), ended.stderr
