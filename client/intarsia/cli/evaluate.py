"""`intarsia evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from intarsia.cli.connect import ServerOption, open_client
from intarsia.cli.events import STDOUT, plain_fields
from intarsia.cli.fields import with_typed_names
from intarsia.cli.figures_table import figures_table
from intarsia.cli.job_options import EncoderOption, StyleOption
from intarsia.cli.judgements import Judgement, printable, short_names
from intarsia.cli.notices import warning_line
from intarsia.cli.outputs import check_output, write_json
from intarsia.cli.pairs import parse_pairs
from intarsia.cli.report.build import write_report
from intarsia.cli.report.sources import Sources, Way
from intarsia.client import Client
from intarsia.errors import IntarsiaError, RequestError
from intarsia.parameters import set_parameter
from intarsia.request import build_segments, parse_label, segment_of
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["evaluate"]

_SET = "LABEL.style_scale=VALUE"


def evaluate(
    content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The content image.", exists=True, dir_okay=False)],
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULT...", help="Finished pictures.", exists=True, dir_okay=False)
    ],
    labels: Annotated[Path, typer.Option(help="The label map: an integer a pixel.", exists=True, dir_okay=False)],
    style: StyleOption,
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
    encoder: EncoderOption = "",
    server: ServerOption = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar=_SET, help="As it was for the transfer; no other knob matters here."),
    ] = None,
) -> None:
    """Judge finished pictures against what they were made of: one column of figures for each."""
    styles = parse_pairs("--style", style, expected="LABEL=STYLE")
    looks = {parse_label(label): look for label, look in styles.items()}
    for flag, given in (("--events", events or []), ("--previews", previews or [])):
        if len(given) > len(results):
            raise RequestError(f"{flag} is given {len(given)} times, for {len(results)} results")
        if given and report is None:
            raise RequestError(f"{flag} needs --report")
    if report is not None:
        check_output(report, [".html"])
    if json_file is not None and json_file != STDOUT:
        check_output(json_file, [".json"])
    segments = _segments(styles, parameters or [])
    ways = Way.read_all(events or [], previews or [])
    with open_client(server) as client:
        names = short_names(results)
        judgements = [
            Judgement(path, name, _judge(client, content, path, labels, styles, segments, encoder))
            for path, name in zip(results, names, strict=True)
        ]
    if json_file is not None:
        _write_json(json_file, content, judgements)
    Console(stderr=json_file == STDOUT).print(figures_table(judgements, looks))
    if report is not None:
        write_report(report, Sources(content, labels, looks), judgements, ways)
        sys.stderr.write(f"report: {report}\n")


def _segments(styles: Mapping[str, str], factors: Sequence[str]) -> list[pb.Segment]:
    segments = build_segments(styles, ())
    for key, value in parse_pairs("--set", factors, expected=_SET).items():
        label, _, name = key.rpartition(".")
        if not label or name != "style_scale":
            raise RequestError(f"--set {key}: an evaluation takes {_SET} alone, nothing else changes a figure")
        set_parameter(key, value, [segment_of(segments, key, label)])
    return segments


def _judge(
    client: Client,
    content: Path,
    result: Path,
    labels: Path,
    styles: Mapping[str, str],
    segments: Sequence[pb.Segment],
    encoder: str,
) -> pb.EvaluateResponse:
    sys.stderr.write(f"evaluating {result}\n")
    try:
        figures = client.evaluate(content, result, labels=labels, segments=segments, encoder=encoder)
    except IntarsiaError as error:
        typed = {parse_label(label): f"{label}={look}" for label, look in styles.items()}
        raise with_typed_names(error, typed, {"result": str(result)}) from error
    for warning in figures.warnings:
        sys.stderr.write(f"{warning_line(warning)}\n")
    return figures


def _write_json(path: Path, content: Path, judgements: Sequence[Judgement]) -> None:
    results = [
        {"result": printable(str(judgement.path)), **plain_fields(judgement.figures)} for judgement in judgements
    ]
    write_json(path, {"content": printable(str(content)), "results": results})
