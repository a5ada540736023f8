"""The method `blended`: feathered masks, bands between them, palettes in harmony."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import StepDone, TransferWarning
from intarsia_server.engine.masks import bands, feathered, largest_overlaps, overlaps, segment_masks
from intarsia_server.engine.request import Start, TransferRequest
from intarsia_server.engine.transfer import transfer

PLAIN = {"feather": 0.0, "band_weight": 0.0, "harmony": 0.0}


def run(request: TransferRequest, encoder: Encoder) -> tuple[list[StepDone], list[TransferWarning], np.ndarray]:
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
    steps, warnings = [], []
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            return steps, warnings, stop.value
        if isinstance(event, StepDone):
            steps.append(event)
        if isinstance(event, TransferWarning):
            warnings.append(event)


def stripes(segments: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Label map of vertical stripes."""
    return np.broadcast_to(np.arange(width) * segments // width, (height, width)).astype(np.uint8)


@pytest.mark.parametrize("start", [Start.CONTENT, Start.PALETTE])
@pytest.mark.parametrize("keep", [False, True])
def test_without_its_knobs_it_is_masked_gram(start: Start, keep: bool, encoder: Encoder) -> None:
    segments: tuple[Mapping[str, Any], ...] = ({}, {"style": None} if keep else {}, {"style_weight": 2.0})
    same = {"steps": 4}
    blended = example_scene.request("blended", same | PLAIN, start=start, segments=segments)
    masked = example_scene.request("masked-gram", same, start=start, segments=segments)
    (ours, _, result), (theirs, _, expected) = run(blended, encoder), run(masked, encoder)
    assert [step.losses for step in ours] == [step.losses for step in theirs]
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("radius", [1, 2, 5, 12, 200])
def test_feathered_masks_are_a_partition_of_unity(radius: float) -> None:
    masks = segment_masks(stripes(5), 5)
    soft = feathered(masks, radius)
    assert float(soft.min()) >= 0
    torch.testing.assert_close(soft.sum(dim=0), torch.ones(64, 96), rtol=0, atol=1e-5)


def test_feathering_reaches_as_far_as_it_says() -> None:
    soft = feathered(segment_masks(stripes(2), 2), 8)
    middle = soft[0, 32]
    assert float(middle[39]) == pytest.approx(1, abs=1e-6)
    assert 0.5 < float(middle[47]) < 0.6
    assert 0.4 < float(middle[48]) < 0.5
    assert float(middle[56]) == pytest.approx(0, abs=1e-6)
    assert (middle[:-1] >= middle[1:] - 1e-6).all()


@pytest.mark.parametrize("radius", [0.0, 0.9])
def test_under_a_pixel_masks_stay_hard(radius: float) -> None:
    masks = segment_masks(stripes(3), 3)
    assert torch.equal(feathered(masks, radius), masks)


def test_bands_lie_on_borders_alone() -> None:
    soft = feathered(segment_masks(stripes(3), 3), 6)
    pairs, dropped = largest_overlaps(overlaps(soft), most=10)
    assert pairs == [(0, 1), (1, 2)]
    assert dropped == 0
    first, _ = bands(soft, pairs)
    assert float(first[:, 31:33].min()) > 0.9
    assert float(first[:, 48:].max()) == 0


def test_the_shortest_bands_are_left_out() -> None:
    labels = stripes(2)
    labels[:4, :20] = 2
    pairs, dropped = largest_overlaps(overlaps(feathered(segment_masks(labels, 3), 4)), most=1)
    assert pairs == [(0, 1)]
    assert dropped == 1


def test_every_border_is_a_term(encoder: Encoder) -> None:
    steps, _, _ = run(example_scene.request("blended", {"steps": 2}), encoder)
    names = [(name, segment) for name, segment, _ in steps[0].losses]
    assert names == [
        ("content", None),
        ("style", 0),
        ("style", 1),
        ("style", 2),
        ("border style", None),
        ("tv", None),
        ("border tv", None),
    ]
    assert steps[-1].total < steps[0].total


def step_across(result: np.ndarray, labels: np.ndarray) -> float:
    """Mean colour step between neighbours on different sides of a vertical border."""
    difference = np.abs(np.diff(result.astype(float), axis=1)).mean(axis=2)
    return float(difference[labels[:, 1:] != labels[:, :-1]].mean())


def test_borders_are_softer_than_masked_grams(encoder: Encoder) -> None:
    labels = stripes(3)
    options: dict[str, Any] = {"label_map": labels, "start": Start.PALETTE}
    _, _, soft = run(example_scene.request("blended", {"steps": 15, "feather": 8.0}, **options), encoder)
    _, _, hard = run(example_scene.request("masked-gram", {"steps": 15}, **options), encoder)
    assert step_across(soft, labels) < 0.7 * step_across(hard, labels)


def test_a_kept_segment_stays_to_the_bit(encoder: Encoder) -> None:
    request = example_scene.request("blended", {"steps": 3}, segments=({}, {"style": None}, {}))
    inputs = example_scene.inputs(request)
    _, _, result = run(request, encoder)
    kept = inputs.labels == 1
    assert np.array_equal(result[kept], inputs.content[kept])
    assert not np.array_equal(result[~kept], inputs.content[~kept])


@pytest.mark.parametrize("width", [1, 8])
def test_thin_segments_and_islands(width: int, encoder: Encoder) -> None:
    """A line thinner than the feathering, at the picture's edge too, and a segment of two islands."""
    labels = np.zeros((64, 96), np.uint8)
    labels[:, :width] = 1
    labels[30 : 30 + width, 40:90] = 1
    labels[5:8, 60:63] = 2
    labels[55:58, 20:23] = 2
    steps, _, result = run(example_scene.request("blended", {"steps": 3}, label_map=labels), encoder)
    assert all(np.isfinite(step.total) for step in steps)
    assert np.isfinite(result).all()


@pytest.mark.parametrize("count", [2, 5, 16])
def test_any_number_of_segments(count: int, encoder: Encoder) -> None:
    """Stripes down to 6 pixels wide, narrower than their feathering, and one segment of a thousandth of the picture."""
    labels = stripes(count - 1)
    labels[40:42, 50:53] = count - 1
    request = example_scene.request("blended", {"steps": 3, "feather": 9.0}, label_map=labels)
    wanted = tuple(replace(request.segments[index % 3], labels=(index,)) for index in range(count))
    steps, _, result = run(replace(request, segments=wanted), encoder)
    assert {segment for name, segment, _ in steps[0].losses if name == "style"} == set(range(count))
    assert all(np.isfinite(step.total) for step in steps)
    assert steps[-1].total < steps[0].total
    assert result.shape == (64, 96, 3)


def test_the_paper_has_no_such_method() -> None:
    with pytest.raises(InvalidInputError, match="not one of them") as refused:
        example_scene.request("blended", paper=True)
    assert refused.value.field == "paper"
