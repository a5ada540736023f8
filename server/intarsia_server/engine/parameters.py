"""Every knob of every method, with its range, its default and the publication's value.

This file is the one place that supplies defaults: the API's comments and docs/methods.md quote it, a test compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from intarsia_server.engine.errors import InvalidInputError

MAX_STEPS = 10_000
MAX_WEIGHT = 1e12
CONVERGED_STEPS = 500
"""Default of every method's `steps` where a stage ends when it has converged: few stages need as many."""


def _steps(default: int, paper: int) -> Any:
    return field(default=default, metadata={"paper": paper, "range": (1, MAX_STEPS)})


def _weight(default: float, paper: float) -> Any:
    return field(default=default, metadata={"paper": paper, "range": (0.0, MAX_WEIGHT)})


@dataclass(frozen=True, kw_only=True)
class MethodParameters:
    """Common base: `method` is the name that the CLI, the API and the documents use."""

    method: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class GatysParameters(MethodParameters):
    """Vanilla transfer with the background's style (reference [1] of the paper)."""

    method = "gatys"
    steps: int = _steps(50, 1000)
    content_weight: float = _weight(0.15, 1e5)
    style_weight: float = _weight(1.0, 1e2)
    tv_weight: float = _weight(0.25, 0.0)
    background: int = 0


@dataclass(frozen=True, kw_only=True)
class MaskedGramParameters(MethodParameters):
    """Per-segment Gram matrices in one optimisation (reference [2] of the paper)."""

    method = "masked-gram"
    steps: int = _steps(50, 1000)
    content_weight: float = _weight(0.25, 1e5)
    style_weight: float = _weight(1.0, 1e2)
    tv_weight: float = _weight(0.25, 0.0)
    capped_gradients: bool = False
    coarse_steps: int = field(default=10, metadata={"paper": 0, "range": (0, MAX_STEPS)})


@dataclass(frozen=True, kw_only=True)
class SequentialParameters(MethodParameters):
    """Attempt 1."""

    method = "sequential"
    steps: int = _steps(40, 1000)
    content_weight: float = _weight(0.06, 1e5)
    style_weight: float = _weight(1.0, 1e2)
    smoothing_steps: int = _steps(2, 40)
    smoothing_tv_weight: float = _weight(1.0, 1.0)
    background: int = 0


@dataclass(frozen=True, kw_only=True)
class SequentialSmoothParameters(MethodParameters):
    """Attempt 2."""

    method = "sequential-smooth"
    steps: int = _steps(40, 1000)
    content_weight: float = _weight(0.06, 1e5)
    style_weight: float = _weight(1.0, 1e2)
    smoothing_steps: int = _steps(3, 40)
    smoothing_content_weight: float = _weight(0.02, 1e4)
    smoothing_style_weight: float = _weight(0.01, 50.0)
    smoothing_tv_weight: float = _weight(0.02, 5e3)
    border_steps: int = _steps(2, 200)
    border_tv_weight: float = _weight(1.0, 100.0)
    border_radius: float | None = field(default=None, metadata={"paper": 15.0, "range": (1.0, 256.0)})
    """In output pixels; None: 15 at a longer side of 600, in proportion at other sizes."""
    background: int = 0


@dataclass(frozen=True, kw_only=True)
class SingleShotParameters(MethodParameters):
    """Attempt 3."""

    method = "single-shot"
    steps: int = _steps(50, 1500)
    content_weight: float = _weight(0.15, 1e6)
    style_weight: float = _weight(1.0, 1e3)
    tv_weight: float = _weight(0.25, 1e3)
    surrogate_weight: float = _weight(0.25, 20.0)


@dataclass(frozen=True, kw_only=True)
class BlendedParameters(MethodParameters):
    """Ours: styles that flow into each other. With feather, bands and harmony at 0 it is `masked-gram`."""

    method = "blended"
    steps: int = field(default=50, metadata={"range": (1, MAX_STEPS)})
    content_weight: float = field(default=0.25, metadata={"range": (0.0, MAX_WEIGHT)})
    style_weight: float = field(default=1.0, metadata={"range": (0.0, MAX_WEIGHT)})
    tv_weight: float = field(default=0.25, metadata={"range": (0.0, MAX_WEIGHT)})
    feather: float | None = field(default=None, metadata={"range": (0.0, 256.0)})
    """In output pixels, to either side of a border; None: 18 at a longer side of 600, in proportion at other sizes."""
    band_weight: float = field(default=1.0, metadata={"range": (0.0, MAX_WEIGHT)})
    harmony: float = field(default=0.1, metadata={"range": (0.0, 1.0)})
    border_tv_weight: float = field(default=0.5, metadata={"range": (0.0, MAX_WEIGHT)})
    coarse_steps: int = field(default=10, metadata={"range": (0, MAX_STEPS)})


METHODS: Mapping[str, type[MethodParameters]] = {
    kind.method: kind
    for kind in (
        BlendedParameters,
        GatysParameters,
        MaskedGramParameters,
        SequentialParameters,
        SequentialSmoothParameters,
        SingleShotParameters,
    )
}

DEFAULT_METHOD = BlendedParameters.method
PAPER_METHOD = SingleShotParameters.method
"""The default with `paper`: the publication's last attempt."""


def resolve(
    method: str,
    explicit: Mapping[str, Any],
    *,
    paper: bool,
    segment_count: int,
    prefix: str,
    until_converged: bool = False,
) -> MethodParameters:
    """Fills in what the request leaves open, from the defaults or the publication, and checks what it sets.

    Args:
        method: a key of `METHODS`.
        explicit: the knobs that the request sets.
        paper: whether open knobs take the publication's values.
        segment_count: for the range of `background`.
        prefix: path of the parameters in the request, for errors.
        until_converged: whether `steps`, left open and not the publication's, is `CONVERGED_STEPS`. Other stages' steps
            are few because more of them harm (docs/methods.md), and stay.

    Raises:
        InvalidInputError: a value out of range, or `paper` with a method that the publication does not have.
    """
    kind = METHODS[method]
    if paper and kind is BlendedParameters:
        raise InvalidInputError("paper", "is for the publication's methods; blended is not one of them")
    values: dict[str, Any] = {}
    for knob in fields(kind):
        name = f"{prefix}.{knob.name}"
        if knob.name in explicit:
            value = explicit[knob.name]
            if "range" in knob.metadata:
                check_range(name, value, *knob.metadata["range"])
            if knob.name == "background" and value >= segment_count:
                raise InvalidInputError(name, f"is {value}, but there are {segment_count} segments")
            values[knob.name] = value
        elif paper:
            values[knob.name] = knob.metadata.get("paper", knob.default)
        elif until_converged and knob.name == "steps":
            values[knob.name] = CONVERGED_STEPS
    return kind(**values)


Number = TypeVar("Number", int, float)


def check_range(field_name: str, value: Number, low: float, high: float) -> Number:
    """Returns the value if it is a number within [low, high].

    Raises:
        InvalidInputError: it is not.
    """
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidInputError(field_name, f"is {_shown(value)}, must be from {_shown(low)} to {_shown(high)}")
    return value


def _shown(number: float) -> str:
    """Whole numbers in full: six digits would blur the one that is refused with the limit."""
    return str(number) if isinstance(number, int) else f"{number:g}"
