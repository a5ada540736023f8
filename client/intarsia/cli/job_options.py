"""The options that say what a job is, for all commands that take one."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from intarsia.request import DEFAULT_METHOD, PAPER_METHOD, method_names

__all__ = [
    "EncoderOption",
    "MemoryOption",
    "MethodOption",
    "PaperOption",
    "PrecisionOption",
    "SetOption",
    "SizeOption",
    "StepsOption",
    "StyleOption",
    "UntilOption",
]

StyleOption: TypeAlias = Annotated[
    list[str],
    typer.Option(
        "--style", metavar="LABEL=STYLE", help="A label's style image, or 'keep'; LABEL is a number or #rrggbb."
    ),
]
MethodOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help=f"One of: {', '.join(method_names())}.",
        show_default=f"{DEFAULT_METHOD}; {PAPER_METHOD} with --paper",
    ),
]
PaperOption: TypeAlias = Annotated[
    bool, typer.Option("--paper", help="The publication's own objective, weights and steps.")
]
SizeOption: TypeAlias = Annotated[int | None, typer.Option(help="The result's longer side in pixels.")]
StepsOption: TypeAlias = Annotated[int | None, typer.Option(help="Steps of the method's main stages.")]
UntilOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="steps|converged",
        help="When a stage ends; with 'converged', after --steps at the latest, whose default is then 500.",
    ),
]
MemoryOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What the worker may hold in all, as 4GiB; larger pictures are worked on in tiles.",
        show_default="the server's",
    ),
]
PrecisionOption: TypeAlias = Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Of the convolutions.")]
EncoderOption: TypeAlias = Annotated[str, typer.Option(help="embedded, torchvision, or a name that the server has.")]
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other knob; LABEL.KEY=VALUE: a segment's own."),
]
