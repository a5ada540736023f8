"""`intarsia info`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from intarsia.cli.connect import ServerOption, open_client
from intarsia.client import Client
from intarsia.embedded import require_server_packages
from intarsia.errors import IntarsiaError
from intarsia.parameters import enum_names
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.version import __version__

__all__ = ["info"]

_START_SECONDS = 60


def info(server: ServerOption = None) -> None:
    """Print versions, devices, encoders, methods and limits of the client and the server."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("client", __version__)
    not_installed = "" if server else _why_no_private_server()
    if not not_installed:
        with open_client(server) as client:
            table.add_row("server", server or "private, for this command alone")
            for name, fact in _facts(_ask(client, wait=server is None)):
                if fact:
                    table.add_row(name, fact)
    Console().print(table)
    if not_installed:
        sys.stderr.write(not_installed + "\n")


def _ask(client: Client, *, wait: bool) -> pb.GetServerInfoResponse:
    """Asks the server; a private one was started a moment ago, and is waited for until it knows its devices."""
    deadline = time.monotonic() + (_START_SECONDS if wait else 0)
    while True:
        facts = client.server_info()
        if facts.ready or time.monotonic() >= deadline:
            return facts
        time.sleep(0.2)


def _why_no_private_server() -> str:
    try:
        require_server_packages()
    except IntarsiaError as error:
        return error.message
    return ""


def _memory(device: pb.Device) -> str:
    whole = f"{device.memory_bytes / 2**30:.1f} GiB"
    return f"{device.used_memory_bytes / 2**30:.1f} of {whole} in use here" if device.used_memory_bytes else whole


def _facts(server: pb.GetServerInfoResponse) -> Iterator[tuple[str, str]]:
    precisions = {number: name for name, number in enum_names(pb.Precision.DESCRIPTOR).items()}
    yield from sorted(server.versions.items())
    for device in server.devices:
        facts = [device.description]
        facts += [_memory(device)] if device.memory_bytes else []
        facts += [f"{device.threads} threads"] if device.threads else []
        yield f"device {device.name}", ", ".join(fact for fact in facts if fact)
    encoders = [f"{name} (default)" if name == server.default_encoder else name for name in server.encoders]
    yield "encoders", ", ".join(encoders)
    yield "methods", ", ".join(name.replace("_", "-") for name in server.methods)
    yield "ops", server.ops
    yield "precision", precisions.get(server.default_precision, "")
    yield "up for", str(timedelta(seconds=server.uptime.seconds))
    yield "jobs", f"{server.running_jobs} running, {server.queued_jobs} queued of {server.queue_capacity}"
    yield "largest picture", f"{server.max_pixels / 1e6:g} megapixels"
    yield "largest message", f"{server.max_message_bytes / 2**20:g} MiB"
    yield "largest upload", f"{server.max_upload_bytes / 2**20:g} MiB" if server.max_upload_bytes else ""
