"""The options that say where the segments lie, for all commands that take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from intarsia.cli.pairs import parse_pairs
from intarsia.errors import RequestError
from intarsia.segmentation import Box, SegmentationOptions, model_names

__all__ = ["AutoOption", "BoxOption", "Choice", "LabelsOption", "MaskOption", "ScribblesOption", "choose"]

LabelsOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--labels", metavar="FILE", help="The label map: an integer a pixel.", exists=True, dir_okay=False),
]
MaskOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--mask", metavar="LABEL=FILE", help="A label's mask: a grey picture, white where the label is."),
]
BoxOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="LABEL=LEFT,TOP,RIGHT,BOTTOM",
        help="A box around an object, in pixels of CONTENT; what is in none has label 0.",
    ),
]
ScribblesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--scribbles",
        metavar="FILE",
        help="A few pixels of each label; all others are transparent, or 255 in a grey or palette picture.",
        exists=True,
        dir_okay=False,
    ),
]
AutoOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--auto", metavar="MODEL", help=f"Find VOC's classes with one of: {', '.join(model_names())}."),
]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        options: For `build_request` and its like.
        typed: For fields of the request, what was typed for them: {"boxes.boxes[0]": "--box 1=0,0,40,40"}.
    """

    options: SegmentationOptions
    typed: Mapping[str, str]


def choose(
    labels: Path | None,
    masks: Sequence[str] | None,
    boxes: Sequence[str] | None,
    scribbles: Path | None,
    auto: str | None,
) -> Choice:
    """Puts the options together.

    Raises:
        RequestError: Not exactly one kind of them was given, or one that makes no sense.
    """
    given = {"--labels": labels, "--mask": masks, "--box": boxes, "--scribbles": scribbles, "--auto": auto}
    chosen = [flag for flag, value in given.items() if value]
    if len(chosen) != 1:
        raise RequestError(f"give exactly one of {', '.join(given)}; got {' and '.join(chosen) or 'none'}")
    if masks:
        typed = {f"soft_masks.masks[{index}]": f"--mask {text}" for index, text in enumerate(masks)}
        return Choice({"masks": parse_pairs("--mask", masks, expected="LABEL=FILE")}, typed)
    if boxes:
        typed = {f"boxes.boxes[{index}]": f"--box {text}" for index, text in enumerate(boxes)}
        return Choice({"boxes": [_box(text) for text in boxes]}, typed)
    if auto:
        return Choice({"automatic": auto}, {})
    return Choice({"labels": labels} if labels else {"scribbles": scribbles}, {})


def _box(text: str) -> Box:
    label, _, sides = text.partition("=")
    numbers = sides.split(",")
    if not label or len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise RequestError(f"--box {text}: expected LABEL=LEFT,TOP,RIGHT,BOTTOM in pixels")
    left, top, right, bottom = map(int, numbers)
    return label, left, top, right, bottom
