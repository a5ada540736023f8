"""Line charts as inline SVG: drawn here, so that a report needs no other package and no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Mark", "line_chart"]

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 14, 44

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A named line.

    Attributes:
        name: Shown in the legend.
        pieces: Its points; a gap lies between two pieces.
        colour: Any CSS colour.
        dashed: For what is there to compare with.
    """

    name: str
    pieces: Sequence[Sequence[Point]]
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line at x with a few words."""

    x: float
    text: str


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    marks: Sequence[Mark] = (),
    levels: Sequence[float] = (),
) -> str:
    """Returns a chart as SVG with its legend, or "" where there is nothing to draw.

    Args:
        title: For screen readers.
        lines: Points that are not finite, or not positive on a logarithmic scale, are left out.
        x_label: Beneath the axis.
        y_label: Beside the axis.
        log: Whether the y axis is logarithmic.
        marks: Vertical lines.
        levels: Values of y that the axis has to reach.
    """
    shown = [(line, [[p for p in piece if _drawable(p, log=log)] for piece in line.pieces]) for line in lines]
    shown = [(line, pieces) for line, pieces in shown if any(pieces)]
    points = [point for _, pieces in shown for piece in pieces for point in piece]
    if not points:
        return ""
    across = _Axis(_LEFT, _WIDTH - _RIGHT, [x for x, _ in points] + [mark.x for mark in marks])
    down = _Axis(_HEIGHT - _BOTTOM, _TOP, [math.log10(y) if log else y for y in [*(y for _, y in points), *levels]])
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += _grid(across, down, down.decades() if log else {value: f"{value:.4g}" for value in down.ticks()})
    for mark in marks:
        x = across.place(mark.x)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="mark" x="{x + 4:.1f}" y="{_TOP + 11}">{escape(mark.text)}</text>')
    for line, pieces in shown:
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        for piece in pieces:
            path = " ".join(f"{across.place(x):.1f},{down.place(math.log10(y) if log else y):.1f}" for x, y in piece)
            look = f'fill="none" stroke="{line.colour}" stroke-width="2" stroke-linejoin="round"{dashes}'
            parts.append(f'<polyline {look} points="{path}"/>')
    parts.append(f'<text class="axis" x="{_WIDTH / 2}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    middle = (_HEIGHT - _BOTTOM + _TOP) / 2
    parts.append(
        f'<text class="axis" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(y_label)}</text></svg>"
    )
    return "".join(parts) + _legend([line for line, _ in shown])


def _drawable(point: Point, *, log: bool) -> bool:
    return all(map(math.isfinite, point)) and (point[1] > 0 or not log)


class _Axis:
    """Places values between two ends, with ticks at round numbers."""

    def __init__(self, start: float, end: float, values: Sequence[float]) -> None:
        self._start, self._end = start, end
        low, high = min(values), max(values)
        room = (high - low) * 0.04 or 0.5
        self._low, self._high = low - room, high + room

    def place(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        rough = (self._high - self._low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * min((1, 2, 5, 10), key=lambda factor: abs(factor * unit - rough))
        first = math.ceil(self._low / step)
        return [index * step for index in range(first, math.floor(self._high / step) + 1)]

    def decades(self) -> dict[float, str]:
        """Ticks and their texts for values that are logarithms: 1, 2, 5, 10, or powers of ten alone.

        Where fewer than two of them fit, ticks lie at even distances.
        """
        powers = range(math.floor(self._low), math.ceil(self._high) + 1)
        for factors in ((1, 2, 5), (1,)):
            values = [factor * 10.0**power for power in powers for factor in factors]
            found = {math.log10(v): f"{v:g}" for v in values if self._low <= math.log10(v) <= self._high}
            if len(found) <= 7:
                break
        if len(found) < 2:
            return {value: f"{10**value:.3g}" for value in self.ticks()}
        return found


def _grid(across: _Axis, down: _Axis, levels: Mapping[float, str]) -> list[str]:
    parts = []
    for value, text in levels.items():
        y = down.place(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value in across.ticks():
        x = across.place(value)
        y = _HEIGHT - _BOTTOM + 16
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y}" text-anchor="middle">{value:.4g}</text>')
    return parts


def _legend(lines: Sequence[Line]) -> str:
    """One entry for each name: several lines may share one."""
    items = []
    for name, line in {line.name: line for line in lines}.items():
        dashes = ' stroke-dasharray="4 3"' if line.dashed else ""
        key = f'<line x1="0" x2="22" y1="4" y2="4" stroke="{line.colour}" stroke-width="2.5"{dashes}/>'
        items.append(f'<li><svg class="key" viewBox="0 0 22 8">{key}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'
