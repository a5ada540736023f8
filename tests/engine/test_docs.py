"""The API's comments quote the defaults and ranges of engine/parameters.py; here they are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from intarsia_server.engine.methods import BORDER_RADIUS, FEATHER
from intarsia_server.engine.parameters import CONVERGED_STEPS, METHODS, MethodParameters
from intarsia_server.engine.request import Output, Segment
from intarsia_server.engine.segmentation import MAX_COLOURS, MAX_SEGMENTS

PROTO = Path(__file__).parents[2] / "proto" / "intarsia" / "v1" / "style_transfer.proto"
NUMBER = r"(-?\d+(?:\.\d+)?(?:e\d+)?)"
PROPORTIONAL = {"border_radius": BORDER_RADIUS, "feather": FEATHER}
"""Lengths in pixels whose default is a share of the output's longer side."""
PARAMETERS = {kind.__name__: kind for kind in METHODS.values()}


class ProtoField(NamedTuple):
    """A field of a message, with the comment above it."""

    message: str
    name: str
    optional: bool
    comment: str


def proto_fields() -> Iterator[ProtoField]:
    message, comment = "", ""
    for line in PROTO.read_text().splitlines():
        if match := re.match(r"message (\w+) \{", line):
            message = match[1]
        if match := re.match(r"\s+//(.*)", line):
            comment += match[1]
            continue
        if match := re.match(r"\s+(optional |repeated )?[\w.]+ (\w+) = \d+;", line):
            yield ProtoField(message, match[2], match[1] == "optional ", comment.strip())
        comment = ""


ALL = list(proto_fields())
METHOD_FIELDS = [field for field in ALL if field.message in PARAMETERS]
IDS = [f"{field.message}.{field.name}" for field in METHOD_FIELDS]


def knob_of(field: ProtoField) -> Field[Any]:
    return next(knob for knob in fields(PARAMETERS[field.message]) if knob.name == field.name)


def quoted(pattern: str, comment: str) -> float | None:
    match = re.search(pattern, comment)
    return float(match[1]) if match else None


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_every_knob_is_in_the_api(kind: type[MethodParameters]) -> None:
    in_api = {field.name for field in METHOD_FIELDS if field.message == kind.__name__}
    assert in_api == {knob.name for knob in fields(kind)}


@pytest.mark.parametrize("field", METHOD_FIELDS, ids=IDS)
def test_quoted_default(field: ProtoField) -> None:
    default = quoted(rf"[Dd]efault {NUMBER}", field.comment)
    if field.name in PROPORTIONAL:
        assert knob_of(field).default is None
        longer = quoted(rf"at a longer side of {NUMBER}", field.comment)
        assert default is not None
        assert longer is not None
        assert default / longer == PROPORTIONAL[field.name]
    elif default is not None:
        assert default == knob_of(field).default


@pytest.mark.parametrize("field", METHOD_FIELDS, ids=IDS)
def test_quoted_value_of_the_paper(field: ProtoField) -> None:
    paper = quoted(rf"[Pp]aper {NUMBER}", field.comment)
    if paper is not None:
        assert paper == knob_of(field).metadata["paper"]


@pytest.mark.parametrize("field", METHOD_FIELDS, ids=IDS)
def test_quoted_range(field: ProtoField) -> None:
    if match := re.search(rf"\b{NUMBER} to {NUMBER}", field.comment):
        assert (float(match[1]), float(match[2])) == knob_of(field).metadata["range"]


@pytest.mark.parametrize("field", METHOD_FIELDS, ids=IDS)
def test_knob_with_a_default_other_than_zero_is_optional(field: ProtoField) -> None:
    """Else an explicit 0 could not be told from nothing."""
    assert field.optional == (knob_of(field).default != 0)


@pytest.mark.parametrize("field", METHOD_FIELDS, ids=IDS)
def test_steps_and_radius_quote_everything(field: ProtoField) -> None:
    if field.name.endswith("steps") or field.name in PROPORTIONAL:
        assert re.search(rf"[Dd]efault {NUMBER}", field.comment)
        assert ("paper" in knob_of(field).metadata) == bool(re.search(rf"[Pp]aper {NUMBER}", field.comment))
        assert re.search(rf"\b{NUMBER} to {NUMBER}", field.comment)


@pytest.mark.parametrize("kind", [Segment, Output])
def test_quoted_defaults_outside_the_methods(kind: type[Any]) -> None:
    defaults = {knob.name: knob.default for knob in fields(kind)}
    compared = 0
    for field in ALL:
        default = quoted(rf"[Dd]efault {NUMBER}", field.comment)
        if field.message == kind.__name__ and default is not None:
            assert default == defaults[field.name], field.name
            compared += 1
    assert compared >= 1


def test_quoted_limits() -> None:
    comments = {(field.message, field.name): field.comment for field in ALL}
    assert f"1 to {MAX_SEGMENTS}." in comments["StylizeRequest", "segments"]
    assert f"at most {MAX_COLOURS} colours" in comments["StylizeRequest", "label_map"]
    assert f"`steps` default to {CONVERGED_STEPS}" in PROTO.read_text()


def test_the_comments_were_found() -> None:
    assert len(METHOD_FIELDS) == sum(len(fields(kind)) for kind in METHODS.values())
    assert sum("efault" in field.comment for field in METHOD_FIELDS) >= 10
