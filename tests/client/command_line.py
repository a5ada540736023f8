"""Running the command line against a scripted server, in this process."""

from __future__ import annotations

from fake_server import FakeServer
from intarsia.cli import app
from typer.testing import CliRunner, Result

STYLES = ["--style", "0=brush.png", "--style", "1=keep"]


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def stylize(fake: FakeServer, *arguments: str) -> Result:
    return cli("stylize", "content.png", "--labels", "labels.png", *STYLES, "--server", fake.address, *arguments)
