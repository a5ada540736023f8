"""`intarsia demo`."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.contact_sheet import Tile, contact_sheet, label_overlay, segment_colour
from intarsia.cli.history import History
from intarsia.cli.job import follow
from intarsia.cli.plotting import has_matplotlib, write_plot
from intarsia.cli.progress import progress_display
from intarsia.client import Client
from intarsia.files import write_atomically
from intarsia.request import build_request
from intarsia.result import Result

__all__ = ["demo"]

EXAMPLE_PACKAGE = "intarsia.examples"

_METHODS = {
    "sequential": "Attempt 1",
    "sequential-smooth": "Attempt 2",
    "single-shot": "Attempt 3",
    "blended": "Ours",
}
_STYLES = ("brush", "glass", "ink")
_PREVIEW_EVERY = 10
_SIZE = 400
"""Longer side in pixels: all four methods within a minute on two cores."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the pictures.")] = Path(
        "demo"
    ),
    size: Annotated[int, typer.Option(help="The results' longer side in pixels.")] = _SIZE,
    steps: Annotated[int | None, typer.Option(help="Steps of each method's main stages.")] = None,
    server: ServerOption = None,
) -> None:
    """Run the publication's three attempts and ours on the packaged example; print the paths of the pictures."""
    output.mkdir(parents=True, exist_ok=True)
    example = _Example.load()
    results: dict[str, Result] = {}
    with open_client(server) as client:
        for method, attempt in _METHODS.items():
            sys.stderr.write(f"{attempt}: {method}\n")
            results[method] = _run(client, example, method, size, steps, output)
            sys.stderr.write(f"{attempt}: {method} took {_seconds(results[method])}\n")
            typer.echo(output / f"{method}.png")
    buffer = io.BytesIO()
    _sheet(example, results).save(buffer, "PNG")
    write_atomically(output / "contact-sheet.png", buffer.getvalue())
    typer.echo(output / "contact-sheet.png")


@dataclass(frozen=True)
class _Example:
    content: bytes
    labels: bytes
    styles: dict[int, bytes]

    @classmethod
    def load(cls) -> _Example:
        root = resources.files(EXAMPLE_PACKAGE)
        styles = {label: root.joinpath("styles", f"{name}.png").read_bytes() for label, name in enumerate(_STYLES)}
        return cls(root.joinpath("content.png").read_bytes(), root.joinpath("labels.png").read_bytes(), styles)


def _run(client: Client, example: _Example, method: str, size: int, steps: int | None, folder: Path) -> Result:
    request = build_request(
        example.content,
        labels=example.labels,
        styles=example.styles,
        method=method,
        size=size,
        steps=steps,
        preview_interval=_PREVIEW_EVERY if has_matplotlib() else 0,
    )
    history = History()
    with progress_display() as show:
        result = follow(client, request, [history, show])
    result.save(folder / f"{method}.png")
    if has_matplotlib():
        write_plot(folder / f"{method}.losses.png", history, result.image)
    return result


def _sheet(example: _Example, results: dict[str, Result]) -> Image.Image:
    content = _decode(example.content)
    labels = Image.open(io.BytesIO(example.labels))
    inputs = [
        Tile(content, "Content image", f"{content.width} x {content.height}"),
        Tile(label_overlay(content, labels), "Label map", f"{len(example.styles)} segments"),
    ]
    inputs += [
        Tile(_decode(style), f"Style of label {label}", _STYLES[index], segment_colour(index))
        for index, (label, style) in enumerate(example.styles.items())
    ]
    outputs = [
        Tile(result.to_pil(), f"{_METHODS[method]}: {method}", f"{_steps(result)} steps in {_seconds(result)}")
        for method, result in results.items()
    ]
    return contact_sheet("Intarsia", "one picture, three segments, three styles", [inputs, outputs])


def _decode(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _steps(result: Result) -> int:
    return sum(stage.steps for stage in result.stages)


def _seconds(result: Result) -> str:
    return f"{result.run_time.total_seconds():.1f} s"
