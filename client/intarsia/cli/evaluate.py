"""`intarsia evaluate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.events import STDOUT, plain_fields
from intarsia.cli.fields import with_typed_names
from intarsia.cli.judgements import FIGURES, Judgement, best, margin_of, number, short_names
from intarsia.cli.outputs import check_output
from intarsia.cli.pairs import parse_pairs
from intarsia.cli.report.build import write_report
from intarsia.cli.report.sources import Sources, Way
from intarsia.client import Client
from intarsia.errors import IntarsiaError, RequestError
from intarsia.files import write_atomically
from intarsia.request import KEEP, parse_label
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["evaluate"]


def evaluate(
    content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The content image.", exists=True, dir_okay=False)],
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT...", help="Finished pictures.", exists=True, dir_okay=False)
    ],
    labels: Annotated[Path, typer.Option(help="The label map: an integer a pixel.", exists=True, dir_okay=False)],
    style: Annotated[
        list[str],
        typer.Option(metavar="LABEL=STYLE", help="A label's style image, or 'keep'; LABEL is a number or #rrggbb."),
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures; '-': to stdout, and the table to stderr."),
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report, one .html file.")] = None,
    events: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A job's events, as stylize wrote them, for the report; once per RESULT, in their order.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    previews: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A job's previews, likewise.", exists=True, file_okay=False),
    ] = None,
    encoder: Annotated[str, typer.Option(help="embedded, torchvision, or a name that the server has.")] = "",
    server: ServerOption = None,
) -> None:
    """Judge finished pictures against what they were made of: one column of figures for each."""
    styles = parse_pairs("--style", style)
    looks = {parse_label(label): look for label, look in styles.items()}
    for flag, given in (("--events", events or []), ("--previews", previews or [])):
        if len(given) > len(results):
            raise RequestError(f"{flag} is given {len(given)} times, for {len(results)} results")
    if report is not None:
        check_output(report, [".html"])
    if json_file is not None and json_file != STDOUT:
        check_output(json_file, [".json"])
    ways = Way.read_all(events or [], previews or [])
    with open_client(server) as client:
        names = short_names(results)
        judgements = [
            Judgement(path, name, _judge(client, content, path, labels, styles, encoder))
            for path, name in zip(results, names, strict=True)
        ]
    if json_file is not None:
        _write_json(json_file, content, judgements)
    Console(stderr=json_file == STDOUT).print(_table(judgements, looks))
    if report is not None:
        write_report(report, Sources(content, labels, looks), judgements, ways)
        sys.stderr.write(f"report: {report}\n")


def _judge(
    client: Client, content: Path, result: Path, labels: Path, styles: dict[str, str], encoder: str
) -> pb.EvaluateResponse:
    sys.stderr.write(f"evaluating {result}\n")
    try:
        return client.evaluate(content, result, labels=labels, styles=styles, encoder=encoder)
    except IntarsiaError as error:
        typed = {parse_label(label): f"{label}={look}" for label, look in styles.items()}
        raise with_typed_names(error, typed, {"result": str(result)}) from error


def _write_json(path: Path, content: Path, judgements: Sequence[Judgement]) -> None:
    results = [{"result": str(judgement.path), **plain_fields(judgement.figures)} for judgement in judgements]
    text = json.dumps({"content": str(content), "results": results}, indent=2) + "\n"
    if path == STDOUT:
        sys.stdout.write(text)
    else:
        write_atomically(path, text.encode())


def _table(judgements: Sequence[Judgement], looks: dict[int, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for judgement in judgements:
        table.add_column(escape(judgement.name), justify="right", overflow="fold")
    table.add_column("how to read it", style="dim")
    for figure in FIGURES:
        winners = best(figure, judgements)
        values = [number(figure.of(judgement.figures)) for judgement in judgements]
        marked = [f"[bold]{text}[/]" if index in winners else text for index, text in enumerate(values)]
        table.add_row(figure.name, *marked, figure.reading)
        if figure.name == "style margin":
            for segment, label in enumerate(sorted(looks)):
                if looks[label] != KEEP:
                    margins = [number(margin_of(judgement.figures, segment)) for judgement in judgements]
                    table.add_row(f"  label {label}", *margins, escape(Path(looks[label]).name), style="dim")
        if figure.name == "seam":
            seams = [j.figures.content_seam.value if j.figures.HasField("content_seam") else None for j in judgements]
            table.add_row("  of the content", *map(number, seams), "at the result's size", style="dim")
    return table
