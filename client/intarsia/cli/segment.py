"""`intarsia segment`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.contact_sheet import label_overlay
from intarsia.cli.fields import with_typed_names
from intarsia.cli.notices import warning_line
from intarsia.cli.outputs import IMAGE_FORMATS, check_output
from intarsia.cli.pictures import open_picture
from intarsia.cli.segmentation import AutoOption, BoxOption, LabelsOption, MaskOption, ScribblesOption, choose
from intarsia.cli.segments import MOST_LABELS, label_indices
from intarsia.errors import IntarsiaError, RequestError
from intarsia.files import write_atomically
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["segment"]


def segment(
    content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The content image.", exists=True, dir_okay=False)],
    labels: LabelsOption = None,
    mask: MaskOption = None,
    box: BoxOption = None,
    scribbles: ScribblesOption = None,
    auto: AutoOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The label map, PNG.", show_default="CONTENT's name with .labels.png"),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CONTENT with each label tinted and outlined.")
    ] = None,
    server: ServerOption = None,
) -> None:
    """Find the labels of CONTENT, and print the label map's path."""
    choice = choose(labels, mask, box, scribbles, auto)
    target = output or Path(f"{content.stem}.labels.png")
    check_output(target, (".png",))
    if overlay is not None:
        check_output(overlay, IMAGE_FORMATS)
    with open_client(server) as client:
        try:
            found = client.segment(content, **choice.options)
        except IntarsiaError as error:
            raise with_typed_names(error, {}, choice.typed) from error
    # Drawn first: without it, no label map either.
    drawn = _overlay(content, found, IMAGE_FORMATS[overlay.suffix.lower()]) if overlay is not None else b""
    write_atomically(target, found.label_map.data)
    if overlay is not None:
        write_atomically(overlay, drawn)
    for warning in found.warnings:
        sys.stderr.write(f"{warning_line(warning)}\n")
    Console(stderr=True).print(_table(found))
    typer.echo(target)


def _table(found: pb.SegmentResponse) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("label", "name", "share", style="bold")
    for item in found.segments:
        table.add_row(str(item.label), item.name, f"{item.share:.1%}")
    return table


def _overlay(content: Path, found: pb.SegmentResponse, image_format: str) -> bytes:
    if len(found.segments) > MOST_LABELS:
        raise RequestError(f"--overlay shows at most {MOST_LABELS} labels, and there are {len(found.segments)}")
    labels = Image.open(io.BytesIO(found.label_map.data))
    indices = label_indices(labels, [item.label for item in found.segments])
    buffer = io.BytesIO()
    label_overlay(open_picture(content), indices).save(buffer, image_format)
    return buffer.getvalue()
