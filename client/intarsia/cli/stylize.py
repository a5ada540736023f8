"""`intarsia stylize`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.events import STDOUT, events_file
from intarsia.cli.fields import with_typed_names
from intarsia.cli.history import History
from intarsia.cli.job import Listener, follow
from intarsia.cli.outputs import IMAGE_FORMATS, check_output
from intarsia.cli.pairs import parse_pairs
from intarsia.cli.plotting import SUFFIXES, require_matplotlib, write_plot
from intarsia.cli.previews import preview_files
from intarsia.cli.progress import progress_display
from intarsia.cli.segmentation import AutoOption, BoxOption, LabelsOption, MaskOption, ScribblesOption, choose
from intarsia.errors import IntarsiaError
from intarsia.request import DEFAULT_METHOD, PAPER_METHOD, build_request, method_names, parse_label

__all__ = ["stylize"]

_PREVIEW_EVERY = 10


def stylize(
    content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The content image.", exists=True, dir_okay=False)],
    style: Annotated[
        list[str],
        typer.Option(metavar="LABEL=STYLE", help="A label's style image, or 'keep'; LABEL is a number or #rrggbb."),
    ],
    labels: LabelsOption = None,
    mask: MaskOption = None,
    box: BoxOption = None,
    scribbles: ScribblesOption = None,
    auto: AutoOption = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(method_names())}.",
            show_default=f"{DEFAULT_METHOD}; {PAPER_METHOD} with --paper",
        ),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help="The publication's own objective, weights and steps.")] = False,
    size: Annotated[int | None, typer.Option(help="The result's longer side in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the method's main stages.")] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="steps|converged",
            help="When a stage ends; with 'converged', after --steps at the latest, whose default is then 500.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds the noise start.")] = 0,
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Of the convolutions.")] = "auto",
    encoder: Annotated[str, typer.Option(help="embedded, torchvision, or a name that the server has.")] = "",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG, JPEG or WebP.", show_default="CONTENT's name with .METHOD.png"),
    ] = None,
    server: ServerOption = None,
    preview_every: Annotated[int | None, typer.Option(metavar="N", help="Steps between previews.", min=1)] = None,
    previews: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the previews into this folder.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot the losses, with pictures on the way.")
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write each event as a JSON line; '-': to stdout, and the result's path to stderr instead.",
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other knob; LABEL.KEY=VALUE: a segment's own."),
    ] = None,
) -> None:
    """Give every segment of CONTENT its own style, and print the result's path."""
    choice = choose(labels, mask, box, scribbles, auto)
    styles = parse_pairs("--style", style, expected="LABEL=STYLE")
    method = method or (PAPER_METHOD if paper else DEFAULT_METHOD)
    target = output or Path(f"{content.stem}.{method}.png")
    if plot is not None:
        require_matplotlib()
        check_output(plot, SUFFIXES)
    request = build_request(
        content,
        **choice.options,
        styles=styles,
        method=method,
        paper=paper,
        size=size,
        steps=steps,
        until=until,
        seed=seed,
        precision=precision,
        encoder=encoder,
        preview_interval=preview_every or (_PREVIEW_EVERY if previews or plot else 0),
        output_format=IMAGE_FORMATS.get(target.suffix.lower(), "png"),
        parameters=parse_pairs("--set", parameters or []),
    )
    check_output(target, IMAGE_FORMATS)
    history = History()
    with ExitStack() as stack:
        listeners: list[Listener] = [history] if plot is not None else []
        if previews is not None:
            listeners.append(preview_files(previews))
        if events is not None:
            listeners.append(stack.enter_context(events_file(events)))
        client = stack.enter_context(open_client(server))
        try:
            with progress_display() as show:
                result = follow(client, request, [*listeners, show])
        except IntarsiaError as error:
            typed_styles = {parse_label(label): f"{label}={look}" for label, look in styles.items()}
            raise with_typed_names(error, typed_styles, choice.typed) from error
        result.save(target)
    if plot is not None:
        write_plot(plot, history, result.image)
    sys.stderr.write(f"done in {result.run_time.total_seconds():.1f} s\n")
    typer.echo(target, err=events == STDOUT)
