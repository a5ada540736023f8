"""The `intarsia` command."""

from __future__ import annotations

import io
import sys

import typer

from intarsia.cli import demo, estimate, evaluate, info, jobs, segment, serve, stylize, token
from intarsia.cli.connect import with_access_options
from intarsia.cli.failures import Commands

__all__ = ["app", "main"]

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Segmentation-based multi-style transfer: every segment of a picture in its own style.",
)
for command in (
    stylize.stylize,
    segment.segment,
    evaluate.evaluate,
    estimate.estimate,
    serve.serve,
    info.info,
    demo.demo,
    token.token,
):
    app.command()(with_access_options(command))
app.add_typer(jobs.app)


def main() -> None:
    """Runs the command line; exits with 0 done, 1 failed, 2 wrong usage or input, 130 cancelled."""
    # A path that is no text is printed as the bytes that it is.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    app(prog_name="intarsia")
