"""The parts of a report: charts, places on borders, label maps."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from intarsia.cli.judgements import FIGURES, Judgement, best, number, short_names
from intarsia.cli.pictures import open_picture
from intarsia.cli.report.charts import Line, Mark, line_chart
from intarsia.cli.report.places import border_places, crop
from intarsia.cli.segments import segment_map
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image, ImageChops

PALETTE = [0, 0, 0, 255, 0, 0, 0, 0, 255]


def grey() -> Image.Image:
    """Labels 0, 1 and 2 in three columns."""
    labels = Image.new("L", (6, 2))
    for label in (1, 2):
        labels.paste(label, (2 * label, 0, 6, 2))
    return labels


def palette() -> Image.Image:
    labels = Image.frombytes("P", (6, 2), grey().tobytes())
    labels.putpalette(PALETTE)
    return labels


COLOURS = [0x000000, 0xFF0000, 0x0000FF]


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (grey, [0, 1, 2]),
        (lambda: grey().point(lambda v: v * 100), [0, 100, 200]),
        (lambda: grey().convert("RGB"), [0, 1, 2]),
        (palette, [0, 1, 2]),
        (lambda: palette().convert("RGB"), COLOURS),
        (lambda: palette().convert("RGBA"), COLOURS),
        (lambda: grey().convert("I"), [0, 1, 2]),
        (lambda: grey().convert("I;16"), [0, 1, 2]),
    ],
)
def test_label_maps_of_every_kind(labels: Callable[[], Image.Image], order: list[int]) -> None:
    assert segment_map(labels(), order).tobytes() == grey().tobytes()


@pytest.mark.parametrize("order", [COLOURS, [0, 100, 200]])
def test_values_that_jpeg_moved_count_to_the_nearest(order: list[int]) -> None:
    labels = palette().convert("RGB") if order is COLOURS else grey().point(lambda value: value * 100)
    buffer = io.BytesIO()
    labels.resize((600, 200), Image.Resampling.NEAREST).save(buffer, "JPEG", quality=50)
    found = segment_map(Image.open(buffer), order)
    wrong = ImageChops.difference(found, grey().resize((600, 200), Image.Resampling.NEAREST))
    assert sum(count for count, value in wrong.getcolors() or [] if value) < 0.02 * 600 * 200


def test_colours_that_happen_to_be_grey() -> None:
    labels = Image.new("RGB", (4, 1))
    labels.paste("white", (2, 0, 4, 1))
    assert segment_map(labels, [0, 0xFFFFFF]).tobytes() == b"\0\0\1\1"
    assert segment_map(labels, [0, 255]).tobytes() == b"\0\0\1\1"


def test_pictures_of_16_bits_are_scaled_down(tmp_path: Path) -> None:
    values = [0, 256, 257, 100 * 257, 65535]
    wide = Image.frombytes("I;16", (5, 1), b"".join(value.to_bytes(2, "little") for value in values))
    for suffix in ("png", "tif"):
        wide.save(tmp_path / f"wide.{suffix}")
        opened = open_picture(tmp_path / f"wide.{suffix}")
        assert opened.mode == "RGB"
        assert opened.tobytes()[::3] == bytes([0, 0, 1, 100, 255])


def test_label_maps_of_one_bit() -> None:
    labels = Image.new("1", (4, 1))
    labels.paste(1, (2, 0, 4, 1))
    assert segment_map(labels, [0, 1]).tobytes() == b"\0\0\1\1"


def test_segments_follow_their_order() -> None:
    assert set(segment_map(grey(), [2, 1, 0]).tobytes()[:2]) == {2}


def test_large_label_maps_are_made_smaller() -> None:
    assert segment_map(Image.new("L", (2000, 1000)), [0]).size == (900, 450)


def halves() -> Image.Image:
    segments = Image.new("L", (300, 200))
    segments.paste(1, (150, 0, 300, 200))
    return segments


def test_places_lie_on_the_border_and_apart() -> None:
    places = border_places(halves(), [], 10)
    assert 2 <= len(places) <= 10
    for place in places:
        assert place.segments == (0, 1)
        assert place.left < 0.5 < place.right
    spans = sorted((place.upper, place.lower) for place in places)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_no_border_no_place() -> None:
    assert border_places(Image.new("L", (60, 40)), [], 5) == []
    assert border_places(halves(), [0, 1], 5) == []


def test_a_short_border_is_found() -> None:
    segments = Image.new("L", (900, 600))
    segments.paste(1, (700, 100, 704, 104))
    (place,) = border_places(segments, [], 3)
    assert place.left < 702 / 900 < place.right
    assert place.upper < 102 / 600 < place.lower


def test_a_crop_shows_the_same_place_at_any_size() -> None:
    place = border_places(halves(), [], 1)[0]
    for scale in (1, 3):
        picture = Image.new("RGB", (300 * scale, 200 * scale), "black")
        picture.paste("white", (150 * scale, 0, 300 * scale, 200 * scale))
        shown = crop(picture, place, 100)
        assert max(shown.size) == 100
        middle = shown.width * (0.5 - place.left) / (place.right - place.left)
        assert shown.getpixel((round(middle) - 10, 50)) == (0, 0, 0)
        assert shown.getpixel((round(middle) + 10, 50)) == (255, 255, 255)


def chart(*points: tuple[float, float], log: bool = False) -> str:
    lines = [Line("a & b", [points], "red")]
    return line_chart("Title", lines, x_label="x", y_label="y", log=log, marks=[Mark(1, "<here>")])


def test_a_chart_has_its_points_in_order() -> None:
    svg = chart((0, 0), (1, 2), (2, 1))
    (found,) = re.findall(r'points="([^"]*)"', svg)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in found.split())
    assert x0 < x1 < x2
    assert y0 > y2 > y1  # y goes down on a screen
    assert "a &amp; b" in svg
    assert "&lt;here&gt;" in svg


@pytest.mark.parametrize("values", [(1.0,), (0.0, 0.0), (1e-9, 1e9), (-5.0, 5.0)])
@pytest.mark.parametrize("log", [False, True])
def test_a_chart_takes_any_numbers(values: tuple[float, ...], log: bool) -> None:
    svg = chart(*enumerate(values), (9, math.nan), (10, math.inf), log=log)
    assert "nan" not in svg.lower()
    assert "inf" not in svg.lower()


def test_a_chart_of_nothing_is_none() -> None:
    assert chart() == chart((0, math.nan)) == chart((0, -1), log=True) == ""


@pytest.mark.parametrize("values", [(9.0, 7.0, 5.6), (3.1, 3.2, 4.9), (10.0, 11.0), (4.0,)])
def test_a_logarithmic_axis_has_ticks(values: tuple[float, ...]) -> None:
    ticks = re.findall(r'text-anchor="end">([^<]*)<', chart(*enumerate(values), log=True))
    assert len(ticks) >= 2
    assert len(set(ticks)) == len(ticks)


def judged(**figures: float) -> Judgement:
    return Judgement(Path("a.png"), "a", pb.EvaluateResponse(**figures))  # type: ignore[arg-type]


def test_the_best_stands_out() -> None:
    by_name = {figure.name: figure for figure in FIGURES}
    several = [judged(content=0.5, structure=0.1), judged(content=0.2, structure=0.3), judged(content=0.2)]
    assert best(by_name["content"], several) == {1, 2}
    assert best(by_name["structure"], several) == {1}
    assert best(by_name["transition"], several) == set()
    assert best(by_name["content"], several[1:]) == set()
    assert number(None) == "–"


def test_short_names() -> None:
    assert short_names([Path("x/a.png"), Path("b.png")]) == ["a", "b"]
    assert short_names([Path("x/a.png"), Path("a.png"), Path("b.png")]) == ["x/a.png", "a.png", "b"]
    assert short_names([Path("cup.gatys.320.png"), Path("cup.single-shot.320.png")]) == ["gatys", "single-shot"]
    assert short_names([Path("a.w0.5.png"), Path("a.w0.25.png")]) == ["w0.5", "w0.25"]
    assert short_names([Path("cup.png"), Path("cup.gatys.png")]) == ["cup", "cup.gatys"]
    assert short_names([Path("cup.gatys.png")]) == ["cup.gatys"]
