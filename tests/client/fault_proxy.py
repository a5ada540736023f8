"""A proxy between client and server that fails as networks do."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Self


class FaultProxy:
    """Passes TCP connections on to a server's Unix socket, until told to fail those that there are.

    Attributes:
        address: "HOST:PORT" to connect to.
    """

    def __init__(self, server_path: str) -> None:
        self._server_path = server_path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()

    def fail(self, fault: str) -> None:
        """Fails all connections; those that come later are sound.

        Args:
            fault: "cut": both ends are closed; "reset": with a TCP reset; "half_close": no more comes from the server,
                and it hears no more; "blackhole": nothing passes in either direction, and nobody is told.
        """
        for client, server in self._pairs:
            if fault == "blackhole":
                self._silent |= {client, server}
                continue
            if fault == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ends = (socket.SHUT_WR,) if fault == "half_close" else (socket.SHUT_RDWR,)
            for end in ends:
                for side in (client, server):
                    with suppress(OSError):
                        if fault == "reset" and side is client:
                            side.close()
                        else:
                            side.shutdown(end)
        self._pairs = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.fail("cut")

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server_path)
                self._pairs.append((client, server))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
