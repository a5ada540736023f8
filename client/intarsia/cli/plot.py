"""The figure of a job: its losses by step with pictures on the way, as figure 14 of the paper has them."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import MaxNLocator
from PIL import Image

from intarsia.cli.history import TOTAL, History, Series
from intarsia.files import write_atomically

__all__ = ["draw_plot"]

_COLOURS = {"content": "#2f6db5", "style": "#c8452e", "tv": "#2e8b57", "border tv": "#8056a8", "surrogate": "#c99a16"}
_OTHER_COLOURS = ("#3b9aa8", "#b0518c", "#7a6a4f")
_INK, _GREY, _BAND = "#222222", "#6f6f6f", "#f4f3f0"
_PICTURES = 6
_NAMED_SEGMENTS = 6
# The figure, in inches from its left and lower edges.
_WIDTH, _LEFT, _RIGHT = 11.0, 0.7, 1.85
_PLOT_HEIGHT, _TOP, _FAN, _BOTTOM, _GAP = 4.4, 0.95, 0.72, 0.5, 0.1
_PLOT_WIDTH = _WIDTH - _LEFT - _RIGHT


def draw_plot(path: Path, history: History, result: bytes) -> None:
    """Draws the weighted losses of a job over its steps, and about six of its pictures below at their steps.

    Args:
        path: A .png, .pdf or .svg.
        history: What `History` heard of the job.
        result: The finished picture, encoded.

    Raises:
        OSError: The file cannot be written.
    """
    pictures = _pictures(history, result)
    picture_width = (_PLOT_WIDTH + _GAP) / _PICTURES - _GAP
    picture_height = picture_width * max(image.height / image.width for _, image in pictures)
    base = _BOTTOM + picture_height + _FAN
    figure = Figure(figsize=(_WIDTH, base + _PLOT_HEIGHT + _TOP), dpi=150, facecolor="white")
    axes = _axes(figure, _LEFT, base, _PLOT_WIDTH, _PLOT_HEIGHT)
    _draw_stages(axes, history)
    _draw_curves(axes, history)
    _dress(axes, history)
    lefts = _places([step / max(history.steps, 1) for step, _ in pictures], picture_width)
    for (step, image), left in zip(pictures, lefts, strict=True):
        height = picture_width * image.height / image.width
        _draw_picture(_axes(figure, _LEFT + left, base - _FAN - height, picture_width, height), axes, step, image)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower())
    write_atomically(path, buffer.getvalue())


def _pictures(history: History, result: bytes) -> list[tuple[int, Image.Image]]:
    """Chooses pictures at even distances from the first to the last, which is the result itself."""
    found = {**dict(history.previews), history.steps: result}
    steps = sorted(found)
    count = min(_PICTURES, len(steps))
    first, last = steps[0], steps[-1]
    wanted = [last - (last - first) * index / max(count - 1, 1) for index in range(count)]
    chosen = sorted({min(steps, key=lambda step: abs(step - target)) for target in wanted})
    return [(step, Image.open(io.BytesIO(found[step])).convert("RGB")) for step in chosen]


def _places(fractions: list[float], width: float) -> list[float]:
    """Returns the left edges, in inches, of pictures as nearly below their steps as they can stand side by side."""
    lefts: list[float] = []
    for fraction in fractions:
        wanted = max(fraction * _PLOT_WIDTH - width / 2, 0.0)
        lefts.append(max(wanted, lefts[-1] + width + _GAP) if lefts else wanted)
    room = _PLOT_WIDTH - width
    for index in reversed(range(len(lefts))):
        lefts[index] = min(lefts[index], room)
        room = lefts[index] - width - _GAP
    return lefts


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    total_width, total_height = figure.get_size_inches()
    return figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))


def _draw_stages(axes: Axes, history: History) -> None:
    ends = [start for _, start in history.stages[1:]] + [history.steps]
    stages = [(name, start, end) for (name, start), end in zip(history.stages, ends, strict=True)]
    inches_per_step = _PLOT_WIDTH / max(history.steps, 1)
    for index, (name, start, end) in enumerate(stages):
        if index % 2 == 0:
            axes.axvspan(start, end, color=_BAND, linewidth=0, zorder=0)
        if index:
            axes.axvline(start, color=_GREY, linewidth=0.6, linestyle=(0, (2, 3)), zorder=1)
        # A letter of this size is about 0.075 inches wide.
        fits = len(name) * 0.075 < (end - start) * inches_per_step
        axes.annotate(
            name,
            ((start + end) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center" if fits else "left",
            rotation=0 if fits else 45,
            rotation_mode="anchor",
            fontsize=9,
            color=_GREY,
        )


def _draw_curves(axes: Axes, history: History) -> None:
    shades = _shades(list(history.curves))
    for series in _in_order(history):
        label = _label(series, history)
        for curve in filter(None, history.curves[series]):
            axes.plot(
                [step for step, _ in curve],
                [value for _, value in curve],
                color=shades[series],
                linewidth=2.4 if series == TOTAL else 1.4,
                marker="o" if len(curve) == 1 else None,
                markersize=3,
                label=label,
                solid_capstyle="round",
                clip_on=False,
                zorder=3 if series == TOTAL else 4,  # where one loss is all of the total, both still show
            )
            label = None  # one entry in the legend for all stages


def _in_order(history: History) -> list[Series]:
    """The total, then the losses in the order in which their names came, the segments of each together."""
    names = list(dict.fromkeys([TOTAL[0], *(name for name, _ in history.curves)]))
    return sorted(history.curves, key=lambda series: (names.index(series[0]), series[1] or 0))


def _segments(name: str, all_series: list[Series]) -> list[int]:
    return sorted(segment for other, segment in all_series if other == name and segment is not None)


def _label(series: Series, history: History) -> str | None:
    name, segment = series
    if segment is None:
        return name
    segments = _segments(name, list(history.curves))
    if len(segments) <= _NAMED_SEGMENTS:
        return f"{name}, segment {segment}"
    return f"{name}, {len(segments)} segments" if segment == segments[0] else None


def _shades(all_series: list[Series]) -> dict[Series, tuple[float, float, float]]:
    """Gives each loss name a colour and each of its segments a shade of it, from full to pale."""
    others = sorted({name for name, _ in all_series if name not in _COLOURS})
    colours = {**_COLOURS, **{name: _OTHER_COLOURS[index % 3] for index, name in enumerate(others)}, TOTAL[0]: _INK}
    shades = {}
    for name, segment in all_series:
        segments = _segments(name, all_series)
        paleness = 0.6 * segments.index(segment) / max(len(segments) - 1, 2) if segment is not None else 0.0
        red, green, blue = (part + (1 - part) * paleness for part in to_rgb(colours[name]))
        shades[name, segment] = (red, green, blue)
    return shades


def _dress(axes: Axes, history: History) -> None:
    axes.set_yscale("log", nonpositive="mask")
    axes.set_xlim(0, max(history.steps, 1))
    axes.margins(y=0.06)
    axes.set_title("Weighted losses by step", loc="left", fontsize=12.5, color=_INK, pad=34)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="both", labelsize=9, colors=_GREY, length=3)
    axes.tick_params(axis="y", which="both", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GREY)
    for number in axes.get_xticklabels():
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # the lines pass behind
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.012),
        frameon=False,
        fontsize=9,
        handlelength=1.6,
        labelspacing=0.7,
        labelcolor=_INK,
    )


def _draw_picture(below: Axes, axes: Axes, step: int, image: Image.Image) -> None:
    below.imshow(image, aspect="auto", interpolation="lanczos")
    below.set_xticks([])
    below.set_yticks([])
    for spine in below.spines.values():
        spine.set_visible(False)
    below.set_xlabel(f"step {step}", fontsize=9, color=_GREY, labelpad=5)
    axis = axes.get_xaxis_transform()
    line = ConnectionPatch(
        (step, 0), (0.5, 1.0), axis, below.transAxes, color=_GREY, linewidth=0.7, shrinkB=3, zorder=-1
    )
    below.figure.add_artist(line)
    axes.plot([step], [0], "o", color=_GREY, markersize=3.5, transform=axis, clip_on=False, zorder=5)
