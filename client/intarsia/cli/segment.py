"""`intarsia segment`."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.contact_sheet import label_overlay
from intarsia.cli.fields import with_typed_names
from intarsia.cli.outputs import IMAGE_FORMATS, check_output
from intarsia.cli.segmentation import AutoOption, BoxOption, LabelsOption, MaskOption, ScribblesOption, choose
from intarsia.errors import IntarsiaError
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
    write_atomically(target, found.label_map.data)
    if overlay is not None:
        write_atomically(overlay, _overlay(content, found, IMAGE_FORMATS[overlay.suffix.lower()]))
    for warning in found.warnings:
        sys.stderr.write(f"warning: {warning.message} ({warning.code})\n")
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
    picture = ImageOps.exif_transpose(Image.open(content)).convert("RGB")
    labels = Image.open(io.BytesIO(found.label_map.data))
    buffer = io.BytesIO()
    label_overlay(picture, _as_indices(labels, found)).save(buffer, image_format)
    return buffer.getvalue()


def _as_indices(labels: Image.Image, found: pb.SegmentResponse) -> Image.Image:
    """Returns the label map with each label's place among those found, which fits into 8 bits where labels may not."""
    place = {item.label: index for index, item in enumerate(found.segments)}
    return Image.frombytes("L", labels.size, bytes(place[value] for value in _values(labels)))


def _values(labels: Image.Image) -> Iterable[int]:
    data = labels.tobytes()
    if labels.mode == "RGB":
        return (
            red << 16 | green << 8 | blue for red, green, blue in zip(data[::3], data[1::3], data[2::3], strict=True)
        )
    return struct.unpack(f"<{len(data) // 2}H", data) if labels.mode == "I;16" else data
