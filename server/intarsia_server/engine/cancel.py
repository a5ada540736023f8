"""How work is told to stop: it polls a function that whoever runs it has given. No torch here."""

from __future__ import annotations

from collections.abc import Callable

from intarsia_server.engine.errors import CancelledError

Cancelled = Callable[[], bool]
"""Whether the work is to stop; cheap, and once it has said so it goes on saying so."""


def never() -> bool:
    """For work that nobody can stop."""
    return False


def poll(cancelled: Cancelled) -> None:
    """Raises CancelledError if the work is to stop."""
    if cancelled():
        raise CancelledError
