"""The coarse stage: the same objective at half size first."""

from __future__ import annotations

from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone, TransferWarning
from intarsia_server.engine.half_size import at_half_size
from intarsia_server.engine.methods import Style, TotalVariation, stages
from intarsia_server.engine.request import Start, TransferRequest
from intarsia_server.engine.stages import StageStarted
from intarsia_server.engine.transfer import transfer
from torch import Tensor

SIZE = (144, 128)
"""The smallest height that a coarse stage works for."""


def run(request: TransferRequest, encoder: Encoder) -> tuple[list[StageStarted], list[StepDone], np.ndarray]:
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
    started, steps = [], []
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            return started, steps, stop.value
        if isinstance(event, StageStarted):
            started.append(event)
        if isinstance(event, StepDone):
            steps.append(event)


def request(method: str, knobs: dict[str, Any] | None = None, **options: Any) -> TransferRequest:
    return example_scene.request(method, {"steps": 2, "coarse_steps": 3} | (knobs or {}), size=SIZE, **options)


STAGES = {
    "blended": "blend",
    "gatys": "vanilla",
    "masked-gram": "masked gram",
    "sequential": "vanilla",
    "sequential-smooth": "vanilla",
    "single-shot": "single shot",
}


@pytest.mark.parametrize(("method", "stage"), STAGES.items())
def test_coarse_comes_first(method: str, stage: str, encoder: Encoder) -> None:
    started, steps, result = run(request(method), encoder)
    assert [(event.stage, event.steps) for event in started[:2]] == [("coarse", 3), (stage, 2)]
    assert result.shape == (128, 144, 3)
    assert all(step.image().shape == result.shape for step in steps)


def test_segments_start_from_the_vanilla_result(encoder: Encoder) -> None:
    """And not from the coarse one: the first step of a stage still shows what it starts from."""
    of = request("sequential", {"steps": 2, "coarse_steps": 2, "smoothing_steps": 1}, start=Start.CONTENT)
    shown: dict[tuple[str, int], Tensor] = {}
    for event in transfer(of, example_scene.inputs(of), encoder, cancelled=lambda: False):
        if isinstance(event, StepDone):
            shown[event.stage, event.step] = event.exact()
    assert not torch.equal(shown["coarse", 2], shown["vanilla", 2])
    torch.testing.assert_close(shown["segment 1", 1], shown["vanilla", 2])


def test_a_step_at_half_size_is_a_quarter_of_the_work(encoder: Encoder) -> None:
    _, steps, _ = run(request("blended"), encoder)
    assert [step.fraction for step in steps] == pytest.approx([share / 11 for share in (1, 2, 3, 7, 11)])


def test_the_fine_stage_takes_up_where_the_coarse_one_ended(encoder: Encoder) -> None:
    _, steps, _ = run(request("blended"), encoder)
    coarse, fine = steps[2].image().astype(float), steps[3].image().astype(float)
    _, alone, _ = run(request("blended", {"coarse_steps": 0}), encoder)
    fresh = alone[0].image().astype(float)
    assert np.abs(fine - coarse).mean() < 0.5 * np.abs(fine - fresh).mean()


@pytest.mark.parametrize(("size", "expected"), [((128, 144), 2), ((127, 300), 1), ((96, 64), 1)])
def test_small_pictures_have_none(size: tuple[int, int], expected: int) -> None:
    plan = stages(example_scene.resolved("blended"), (0, 1, 2), paper=False, size=size)
    assert len(plan) == expected


def test_the_publication_has_none() -> None:
    plan = stages(example_scene.resolved("masked-gram", paper=True), (0, 1), paper=True, size=(600, 400))
    assert [stage.name for stage in plan] == ["masked gram"]


def test_lengths_are_halved() -> None:
    coarse, fine = stages(example_scene.resolved("blended"), (0, 1), paper=False, size=(600, 400))

    def lengths(losses: tuple[Any, ...]) -> list[float]:
        style = next(loss.feather for loss in losses if isinstance(loss, Style))
        border = next(loss.border_radius for loss in losses if isinstance(loss, TotalVariation) and loss.border_radius)
        return [style, border]

    assert lengths(coarse.losses) == pytest.approx([length / 2 for length in lengths(fine.losses)])


def test_half_size_loses_no_segment() -> None:
    labels = np.zeros((128, 144), np.uint8)
    labels[:, 71] = 1
    labels[10, 10] = 2
    of = request("blended", label_map=labels)
    inputs = at_half_size(example_scene.inputs(of), of.segments)
    assert inputs.masks is not None
    assert inputs.masks.shape == (3, 64, 72)
    assert inputs.content.shape == (64, 72, 3)
    np.testing.assert_allclose(inputs.masks.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(inputs.masks.sum(axis=(1, 2)) * 4, [(labels == index).sum() for index in range(3)])
    assert all(
        np.asarray(half).shape[0] == np.asarray(full).shape[0] // 2
        for half, full in zip(inputs.styles, example_scene.inputs(of).styles, strict=True)
    )


def test_half_size_of_odd_pictures_and_soft_masks() -> None:
    of = example_scene.request("blended", size=(145, 129))
    full = example_scene.inputs(of)
    half = at_half_size(full, of.segments)
    assert half.labels.shape == (64, 72)
    assert half.masks is not None
    np.testing.assert_allclose(half.masks.sum(axis=0), 1, atol=1e-6)
    quarter = at_half_size(half, of.segments)
    assert quarter.masks is not None
    np.testing.assert_allclose(quarter.masks.mean(axis=(1, 2)), half.masks.mean(axis=(1, 2)), atol=0.01)


@pytest.mark.parametrize("start", [Start.PALETTE, Start.CONTENT, Start.NOISE])
def test_a_kept_segment_stays_to_the_bit(start: Start, encoder: Encoder) -> None:
    of = request("blended", segments=({}, {"style": None}, {}), start=start)
    inputs = example_scene.inputs(of)
    _, steps, result = run(of, encoder)
    kept = inputs.labels == 1
    assert np.array_equal(result[kept], inputs.content[kept])
    assert all(np.array_equal(step.image()[kept], inputs.content[kept]) for step in steps)


def test_same_bits_twice(encoder: Encoder) -> None:
    assert np.array_equal(run(request("blended"), encoder)[2], run(request("blended"), encoder)[2])


def test_without_its_knobs_blended_is_masked_gram_here_too(encoder: Encoder) -> None:
    plain = {"feather": 0.0, "band_weight": 0.0, "harmony": 0.0}
    _, ours, result = run(request("blended", plain), encoder)
    _, theirs, expected = run(request("masked-gram"), encoder)
    assert [step.losses for step in ours] == [step.losses for step in theirs]
    assert np.array_equal(result, expected)


def test_what_the_coarse_stage_loses_is_not_warned_of(encoder: Encoder) -> None:
    """The second segment has over a pixel's weight at relu5_1, and less than one at half the size; the third never."""
    labels = np.zeros((128, 144), np.uint8)
    labels[32:56, 32:56] = 1
    labels[100, 100:102] = 2
    of = request("masked-gram", label_map=labels)
    events = list(transfer(of, example_scene.inputs(of), encoder, cancelled=lambda: False))
    warnings = [event.message for event in events if isinstance(event, TransferWarning)]
    assert not any(message.startswith("segment 1 ") for message in warnings)
    lost = [message for message in warnings if message.startswith("segment 2 ")]
    assert lost
    assert len(lost) == len(set(lost))
