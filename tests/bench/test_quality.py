"""The quality table's sets and its page; the pictures themselves are `make quality`'s."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from intarsia.request import method_names
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image

from bench.quality.figures import Figures, Table
from bench.quality.page import METHODS, write_page
from bench.quality.sets import QualitySet, quality_sets

SIZE = 64
PAINTINGS = ("tubingen", "the_scream", "starry_night_google", "shipwreck")


def labels_of(each: QualitySet) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(each.labels())))


def figures(seam: float, margin: float = 0.5) -> Figures:
    return Figures(seam=seam, transition=seam / 2, palette=0.7, margin=margin, worst=0.9, content=1, structure=0.3)


def test_without_paintings_there_are_the_shipped_sets(tmp_path: Path) -> None:
    sets = quality_sets(tmp_path)
    assert len(sets) == 3
    assert all(each.shipped for each in sets)


def test_with_paintings_there_are_at_least_six(tmp_path: Path) -> None:
    for name in PAINTINGS:
        Image.new("RGB", (200, 150), "teal").save(tmp_path / f"{name}.jpg")
    sets = quality_sets(tmp_path)
    assert len(sets) >= 6
    assert len({each.slug for each in sets}) == len(sets)
    for each in sets:
        labels = labels_of(each)
        with Image.open(each.content) as content:
            assert labels.shape[::-1] == content.size
        assert set(np.unique(labels).tolist()) == set(each.styles), each.name
        assert 2 <= len(each.styles) <= 5


def test_merged_labels(tmp_path: Path) -> None:
    whole, merged = (next(each for each in quality_sets(tmp_path) if len(each.styles) == count) for count in (3, 2))
    assert np.array_equal(labels_of(merged), np.minimum(labels_of(whole), 1))


def test_every_method_is_in_the_table() -> None:
    assert set(METHODS) == set(method_names())


def test_figures_of_an_evaluation() -> None:
    found = pb.EvaluateResponse(transition=0.25, palette=0.5, style_margin=0.6, content=1.5, structure=0.25)
    found.seam.value = 1.25
    for margin in (0.5, 0.75):
        found.margins.add(margin=margin)
    made = Figures.of(found)
    assert (made.seam, made.worst, made.margin) == (1.25, 0.75, pytest.approx(0.6))


def test_the_page(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (each,) = [each for each in quality_sets(tmp_path) if each.name == "cup"]
    table: Table = {each.name: {}}
    for index, method in enumerate(METHODS):
        Image.new("RGB", (SIZE, 43), "orange").save(each.result(tmp_path, method, SIZE))
        table[each.name][method] = figures(1.2 + 0.3 * index, margin=0.5 + 0.1 * index)
    write_page(tmp_path / "quality.md", table, [each], SIZE, tmp_path)
    text = (tmp_path / "quality.md").read_text()
    assert "| cup | 0.80 | 0.80 | 0.83 | 0.90 | 1.00 | 1.00 |" in text
    assert "| **median** | **0.80** |" in text
    assert "| `blended` | 1.20 | 0.60 | 0.70 | 0.50 |" in text
    with Image.open(tmp_path / "images" / "quality-cup.jpg") as sheet:
        assert sheet.width == 1400 or sheet.height == 1400
    assert "images/quality-cup.jpg" in text
