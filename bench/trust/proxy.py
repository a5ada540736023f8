"""A network that fails on purpose: a TCP proxy that delays, cuts, swallows, resets and half-closes connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

CHUNK = 64 * 1024


class FaultProxy:
    """Stands between a client and a server, and does its connections harm when it is told to.

    Its methods may be called from any thread once it has started.

    Args:
        upstream: the server, as HOST:PORT or unix:PATH.

    Attributes:
        address: to connect to in the server's place, HOST:PORT.
    """

    def __init__(self, upstream: str) -> None:
        self.address = ""
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._links: set[_Link] = set()
        self._delay = 0.0
        self._swallows = False
        self._refuses = False
        self._cut_after: int | None = None

    def delay(self, seconds: float) -> None:
        """Holds every piece of data back for so long, in either direction; 0: not at all."""
        self._delay = seconds

    def blackhole(self, swallows: bool = True) -> None:
        """Takes data from both sides and passes nothing on, without a word; False: passes on what comes then."""
        self._swallows = swallows

    def refuse(self, refuses: bool = True) -> None:
        """Resets every new connection at once; False: takes them again."""
        self._refuses = refuses

    def cut_after(self, count: int | None) -> None:
        """Resets a connection once it has carried so many bytes from the server; None: none."""
        self._cut_after = count

    def cut(self) -> None:
        """Closes every connection in an orderly way on both sides."""
        self._on_all(_Link.close)

    def reset(self) -> None:
        """Resets every connection on both sides."""
        self._on_all(_Link.reset)

    def half_close(self) -> None:
        """Tells every client that the server will say no more; what clients send still arrives."""
        self._on_all(_Link.half_close)

    @property
    def connections(self) -> int:
        """That are open."""
        return len(self._links)

    def _on_all(self, action: Callable[[_Link], None]) -> None:
        async def act() -> None:
            for link in list(self._links):
                action(link)

        asyncio.run_coroutine_threadsafe(act(), self._loop).result()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._thread.start()
        listening = asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _finish(self) -> None:
        self._server.close()
        for link in list(self._links):
            link.reset()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        try:
            from_server, to_server = await self._connect()
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, to_server)
        self._links.add(link)
        up = asyncio.create_task(self._pass_on(reader, to_server, link, limited=False))
        down = asyncio.create_task(self._pass_on(from_server, writer, link, limited=True))
        try:
            await asyncio.gather(up, down)
        except (OSError, asyncio.CancelledError):  # cancelled by `_finish`, which waits for this task's end
            link.reset()
        finally:
            self._links.discard(link)
            link.close()

    def _connect(self) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._upstream.startswith("unix:"):
            return asyncio.open_unix_connection(self._upstream.removeprefix("unix:"))
        host, _, port = self._upstream.rpartition(":")
        return asyncio.open_connection(host, int(port))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, limited: bool
    ) -> None:
        carried = 0
        while data := await reader.read(CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            if self._swallows:
                continue
            if limited and self._cut_after is not None and carried + len(data) >= self._cut_after:
                writer.write(data[: self._cut_after - carried])
                link.reset()
                return
            carried += len(data)
            writer.write(data)
            await writer.drain()
        if not self._swallows and writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._client = client
        self._sides = (client, server)

    def close(self) -> None:
        for side in self._sides:
            side.close()

    def reset(self) -> None:
        for side in self._sides:
            _reset(side)

    def half_close(self) -> None:
        with suppress(OSError):
            self._client.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection without a farewell: the other side gets ECONNRESET."""
    connection = writer.get_extra_info("socket")
    if connection.family != socket.AF_UNIX:
        with suppress(OSError):  # it is closed already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
