"""`intarsia estimate`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.events import STDOUT, plain_fields
from intarsia.cli.fields import with_typed_names
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
from intarsia.cli.judgements import printable
from intarsia.cli.outputs import check_output, write_json
from intarsia.cli.pairs import parse_pairs
from intarsia.cli.segmentation import AutoOption, BoxOption, LabelsOption, MaskOption, ScribblesOption, choose
from intarsia.errors import IntarsiaError
from intarsia.parameters import enum_names
from intarsia.request import parse_label
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["estimate"]


def estimate(
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
    precision: PrecisionOption = "auto",
    encoder: EncoderOption = "",
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all of it; '-': to stdout, and the table to stderr."),
    ] = None,
    server: ServerOption = None,
    parameters: SetOption = None,
) -> None:
    """Say how long `stylize` would take with these options, and how much memory, without running it."""
    choice = choose(labels, mask, box, scribbles, auto)
    styles = parse_pairs("--style", style, expected="LABEL=STYLE")
    knobs = parse_pairs("--set", parameters or [])
    if json_file is not None and json_file != STDOUT:
        check_output(json_file, [".json"])
    with open_client(server) as client:
        try:
            found = client.estimate(
                content,
                **choice.options,
                styles=styles,
                method=method,
                paper=paper,
                size=size,
                steps=steps,
                until=until,
                memory=memory,
                precision=precision,
                encoder=encoder,
                parameters=knobs,
            )
        except IntarsiaError as error:
            typed_styles = {parse_label(label): f"{label}={look}" for label, look in styles.items()}
            raise with_typed_names(error, typed_styles, choice.typed) from error
    if json_file is not None:
        write_json(json_file, {"content": printable(str(content)), **plain_fields(found)})
    Console(stderr=json_file == STDOUT).print(_table(found))


def _table(found: pb.EstimateResponse) -> Table:
    precisions = {number: name for name, number in enum_names(pb.Precision.DESCRIPTOR).items()}
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("stage", "time", "", style="bold")
    table.add_row("preparation", _time(found.preparation.ToTimedelta()))
    for stage in found.stages:
        steps = f"{'at most ' if found.at_most else ''}{stage.steps} steps"
        table.add_row(stage.stage, _time(stage.run_time.ToTimedelta()), steps)
    place = f"{found.width}x{found.height} in {precisions[found.precision]} on {found.device.name}"
    table.add_row("at most" if found.at_most else "in all", _time(found.run_time.ToTimedelta()), place, style="bold")
    if found.queue_position:
        wait = _time(found.queued_time.ToTimedelta()) if found.HasField("queued_time") else "?"
        table.add_row("before it", wait, f"{found.queue_position} jobs in the queue")
    idle = f"beside {_mebibytes(found.idle_memory_bytes)} that the worker holds"
    of_all = f", of {_mebibytes(found.device.memory_bytes)}" if found.device.memory_bytes else ""
    tiles = f", in {found.tiles} tiles" if found.tiles > 1 else ""
    table.add_row("memory", _mebibytes(found.memory_bytes), idle + of_all + tiles)
    return table


def _time(time: timedelta) -> str:
    """With two or three digits that say something."""
    seconds = time.total_seconds()
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 10 * 2**30 else f"{count / 2**30:.0f} GiB"
