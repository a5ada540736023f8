"""How late the event loop runs what is due: everything that the front does waits that long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

INTERVAL = 0.1
"""Seconds between two looks."""


async def watch_loop_lag(observe: Callable[[float], None]) -> None:
    """Tells, again and again until it is cancelled, by how many seconds a sleep was too long."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL
        await asyncio.sleep(INTERVAL)
        observe(max(0.0, loop.time() - due))
