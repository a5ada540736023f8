"""`intarsia stylize`."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from intarsia.cli.connect import ServerOption, lasting_server, open_client
from intarsia.cli.events import STDOUT, events_file
from intarsia.cli.fields import with_typed_names
from intarsia.cli.history import History
from intarsia.cli.job import Listener, follow, submit
from intarsia.cli.job_options import (
    EncoderOption,
    MemoryOption,
    MethodOption,
    PaperOption,
    PrecisionOption,
    SetOption,
    SizeOption,
    StepsOption,
    StyleOption,
    UntilOption,
)
from intarsia.cli.outputs import IMAGE_FORMATS, check_output
from intarsia.cli.pairs import parse_pairs
from intarsia.cli.plotting import SUFFIXES, require_matplotlib, write_plot
from intarsia.cli.previews import preview_files
from intarsia.cli.progress import progress_display
from intarsia.cli.segmentation import AutoOption, BoxOption, LabelsOption, MaskOption, ScribblesOption, choose
from intarsia.errors import IntarsiaError, RequestError
from intarsia.request import DEFAULT_METHOD, PAPER_METHOD, build_request, parse_label

__all__ = ["stylize"]

_PREVIEW_EVERY = 10


def stylize(
    content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The content image.", exists=True, dir_okay=False)],
    style: StyleOption,
    labels: LabelsOption = None,
    mask: MaskOption = None,
    box: BoxOption = None,
    scribbles: ScribblesOption = None,
    auto: AutoOption = None,
    method: MethodOption = None,
    paper: PaperOption = False,
    size: SizeOption = None,
    steps: StepsOption = None,
    until: UntilOption = None,
    memory: MemoryOption = None,
    seed: Annotated[int, typer.Option(help="Seeds the noise start.")] = 0,
    precision: PrecisionOption = "auto",
    encoder: EncoderOption = "",
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
    detach: Annotated[bool, typer.Option("--detach", help="Leave the job to the server, and print its id.")] = False,
    request_id: Annotated[
        str, typer.Option(metavar="UUID", help="The same again attaches to the same job.", show_default="a fresh one")
    ] = "",
    wait_when_busy: Annotated[
        float, typer.Option(metavar="SECONDS", help="Try again for so long while the server's queue is full.", min=0)
    ] = 0,
    parameters: SetOption = None,
) -> None:
    """Give every segment of CONTENT its own style, and print the result's path."""
    if detach:
        server = lasting_server(server, "--detach")
        _refuse_listeners(previews, plot, events)
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
        memory=memory,
        seed=seed,
        precision=precision,
        encoder=encoder,
        preview_interval=preview_every or (_PREVIEW_EVERY if previews or plot else 0),
        output_format=IMAGE_FORMATS.get(target.suffix.lower(), "png"),
        parameters=parse_pairs("--set", parameters or []),
        request_id=request_id,
        detach=detach,
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
            if detach:
                job_id = submit(client, request, wait_when_busy)
                sys.stderr.write(f"once it is done: intarsia jobs result {job_id} -o {shlex.quote(str(target))}\n")
                typer.echo(job_id)
                return
            with progress_display() as show:
                result = follow(client, request, [*listeners, show], wait_when_busy)
        except IntarsiaError as error:
            typed_styles = {parse_label(label): f"{label}={look}" for label, look in styles.items()}
            raise with_typed_names(error, typed_styles, choice.typed) from error
        result.save(target)
    if plot is not None:
        write_plot(plot, history, result.image)
    cached, targets = sum(stage.cached_targets for stage in result.stages), sum(s.targets for s in result.stages)
    reused = f"; {cached} of {targets} style targets from the cache" if cached else ""
    sys.stderr.write(f"done in {result.run_time.total_seconds():.1f} s{reused}\n")
    typer.echo(target, err=events == STDOUT)


def _refuse_listeners(previews: Path | None, plot: Path | None, events: Path | None) -> None:
    for flag, value in (("--previews", previews), ("--plot", plot), ("--events", events)):
        if value is not None:
            raise RequestError(f"{flag} needs somebody who watches: leave it out, or --detach")
