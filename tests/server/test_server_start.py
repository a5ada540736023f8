"""Servers that cannot start say why and end with the right status."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from server_jobs import failure_of, tiny_request
from server_process import LONG, ServerProcess, running_server, server_environment


def _start(folder: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """A server that must end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "intarsia_server", *arguments],
        env=server_environment(folder, **settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue_capacity", "x"),
        ("queue_capacity", "-1"),
        ("threads", "-1"),
        ("heartbeat_seconds", "0"),
        ("log_level", "loud"),
        ("devices", "cpu"),
        ("encoder_files", "vgg19.pth"),
        ("segmentation_files", '{"unet": "/weights/unet.pth"}'),
    ],
)
def test_wrong_setting(tmp_path: Path, name: str, value: str) -> None:
    ended = _start(tmp_path, "--address", f"unix:{tmp_path / 's'}", **{name: value})
    assert ended.returncode == 2, ended.stderr
    assert f"INTARSIA_{name.upper()}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_option(tmp_path: Path) -> None:
    ended = _start(tmp_path, "--port", "1")
    assert ended.returncode == 2
    assert "--port" in ended.stderr


def test_end_with_a_stdin_that_is_at_its_end_already(tmp_path: Path) -> None:
    ended = _start(tmp_path, "--address", f"unix:{tmp_path / 's'}", "--exit-with-stdin")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = _start(tmp_path, "--address", address)
    assert ended.returncode == 1
    assert f"cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_second_server_on_the_same_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with running_server(address=address) as server:
        server.wait_for_log("listening on")
        assert _start(tmp_path, "--address", address).returncode == 1


def test_default_encoder_that_is_not_known(tmp_path: Path) -> None:
    ended = _start(tmp_path, "--address", f"unix:{tmp_path / 's'}", encoder="nonsense")
    assert ended.returncode == 2, ended.stderr
    assert "INTARSIA_ENCODER" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_default_encoder_without_weights_fails_the_jobs_that_wait(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(encoder="torchvision")
    server.wait_for_log("listening on")
    with server.stub() as stub:
        failure = failure_of(stub.Stylize(tiny_request(), timeout=LONG))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert server.wait_for_end() == 1
    assert "cannot start" in server.log
    assert "vgg19-dcbb9e9d.pth" in server.log
