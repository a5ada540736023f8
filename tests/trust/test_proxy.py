"""The proxy does the harm that it is told to, and none otherwise."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from bench.trust.proxy import FaultProxy

PATIENCE = 30.0


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets; its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: str) -> Iterator[FaultProxy]:
    with FaultProxy(echo) as proxy:
        yield proxy


def connect(proxy: FaultProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    """Sends data and reads as much."""
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data) and (piece := connection.recv(65536)):
        answer += piece
    return answer


def read_all(connection: socket.socket) -> bytes:
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    return answer


def first_bytes(proxy: FaultProxy) -> bytes:
    """Of a new connection, which may be reset while it is made or afterwards."""
    with connect(proxy) as connection:
        return connection.recv(1)


def test_it_passes_everything_on(proxy: FaultProxy) -> None:
    data = bytes(range(256)) * 4000
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        connection.settimeout(PATIENCE)
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        answer = b""
        while len(answer) < len(data):
            answer += connection.recv(65536)
        sender.join()
        assert answer == data
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_delay(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        proxy.delay(0.2)
        began = time.monotonic()
        assert exchange(connection, b"hello") == b"hello"
        assert time.monotonic() - began >= 0.4


def test_cut(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        assert proxy.connections == 1
        proxy.cut()
        assert connection.recv(1) == b""


def test_reset(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_reset_after_so_many_bytes(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        proxy.cut_after(3)
        connection.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def test_blackhole(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        proxy.blackhole()
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            exchange(connection, b"lost")
        proxy.blackhole(False)
        connection.settimeout(PATIENCE)
        assert exchange(connection, b"heard") == b"heard"


def test_half_close(proxy: FaultProxy) -> None:
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"
        proxy.half_close()
        assert connection.recv(1) == b""
        connection.sendall(b"still taken")
        assert proxy.connections == 1


def test_refuse(proxy: FaultProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionResetError):
        first_bytes(proxy)
    proxy.refuse(False)
    with connect(proxy) as connection:
        assert exchange(connection, b"hello") == b"hello"


def test_no_server() -> None:
    with FaultProxy("127.0.0.1:1") as proxy, pytest.raises(ConnectionResetError):
        first_bytes(proxy)
