"""`intarsia serve`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from intarsia.embedded import require_server_packages

__all__ = ["serve"]


def serve(
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT|unix:PATH", help="Where to listen.", show_default="the server's own"),
    ] = None,
) -> None:
    """Run a server in the foreground. Its other settings come from the environment (INTARSIA_*)."""
    require_server_packages()
    command = [sys.executable, "-m", "intarsia_server", *(["--address", address] if address else [])]
    # In place of this process, so that signals and the exit code are the server's own.
    os.execv(sys.executable, command)
