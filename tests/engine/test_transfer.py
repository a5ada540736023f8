"""The generator as a whole: a few steps of every method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.events import StepDone, TransferEvent, TransferWarning
from intarsia_server.engine.parameters import METHODS
from intarsia_server.engine.request import Optimizer, Start, TransferRequest
from intarsia_server.engine.stages import StageDone, StageStarted
from intarsia_server.engine.transfer import transfer
from intarsia_server.engine.weights import load_weights

Recorded = list[TransferEvent]

FEW: Mapping[str, Mapping[str, Any]] = {
    "gatys": {"steps": 3},
    "masked-gram": {"steps": 3},
    "sequential": {"steps": 2, "smoothing_steps": 3},
    "sequential-smooth": {"steps": 2, "smoothing_steps": 1, "border_steps": 4},
    "single-shot": {"steps": 3},
    "blended": {"steps": 3},
}
TRANSFERS = [("vanilla", 2), ("segment 1", 2), ("segment 2", 2)]
STAGES = {
    "gatys": [("vanilla", 3)],
    "masked-gram": [("masked gram", 3)],
    "sequential": [*TRANSFERS, ("smoothing", 3)],
    "sequential-smooth": [*TRANSFERS, ("smoothing", 1), ("border smoothing", 4)],
    "single-shot": [("single shot", 3)],
    "blended": [("blend", 3)],
}
OURS = ("blended", True)
"""Not the publication's: there is no paper objective for it."""
KEEP_1: tuple[Mapping[str, Any], ...] = ({}, {"style": None}, {})


def ignore(event: TransferEvent) -> None:
    """Watches nothing."""


def run(
    request: TransferRequest, encoder: Encoder, *, watch: Callable[[TransferEvent], None] = ignore
) -> tuple[Recorded, np.ndarray]:
    """Every event, and the result."""
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
    events: Recorded = []
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            return events, stop.value
        watch(event)
        events.append(event)


def few(method: str, **options: Any) -> TransferRequest:
    return example_scene.request(method, FEW[method], **options)


def steps_of(events: Recorded) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


class Pictures:
    """The picture after the first and the last step of each stage."""

    def __init__(self) -> None:
        self.first: dict[str, np.ndarray] = {}
        self.last: dict[str, np.ndarray] = {}

    def __call__(self, event: TransferEvent) -> None:
        if isinstance(event, StepDone):
            picture = event.image()
            self.first.setdefault(event.stage, picture)
            self.last[event.stage] = picture


def test_every_method_is_tried() -> None:
    assert FEW.keys() == STAGES.keys() == METHODS.keys()


@pytest.mark.parametrize(
    ("method", "paper"), [(method, paper) for method in FEW for paper in (False, True) if (method, paper) != OURS]
)
def test_events_come_in_order(method: str, paper: bool, encoder: Encoder) -> None:
    optimizer = Optimizer.ADAM if paper else Optimizer.LBFGS
    events, result = run(few(method, paper=paper, optimizer=optimizer), encoder)
    remaining = iter(event for event in events if not isinstance(event, TransferWarning))
    plan = STAGES[method]
    for index, (name, steps) in enumerate(plan):
        assert next(remaining) == StageStarted(name, index, len(plan), steps)
        for step in range(1, steps + 1):
            event = next(remaining)
            assert isinstance(event, StepDone)
            last = event
            assert (event.stage, event.step, event.steps) == (name, step, steps)
            assert event.total == pytest.approx(sum(value for _, _, value in event.losses))
        done = next(remaining)
        assert isinstance(done, StageDone)
        assert (done.stage, done.steps, done.losses, done.total) == (name, steps, last.losses, last.total)
        assert done.seconds > 0
    assert next(remaining, None) is None
    assert result.shape == (64, 96, 3)
    assert result.dtype == np.uint8


@pytest.mark.parametrize("method", FEW)
def test_fraction_rises_to_one(method: str, encoder: Encoder) -> None:
    fractions = [event.fraction for event in steps_of(run(few(method), encoder)[0])]
    total = sum(steps for _, steps in STAGES[method])
    assert fractions == pytest.approx([(number + 1) / total for number in range(total)])


def test_losses_fall_and_the_picture_moves(encoder: Encoder) -> None:
    pictures = Pictures()
    events, result = run(example_scene.request("masked-gram", {"steps": 12}), encoder, watch=pictures)
    totals = [event.total for event in steps_of(events)]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < 0.5 * totals[0]
    assert np.array_equal(pictures.last["masked gram"], result)
    assert np.abs(result.astype(int) - example_scene.content(96, 64)).mean() > 5


def test_losses_are_named_by_segment(encoder: Encoder) -> None:
    (event, *_) = steps_of(run(few("masked-gram"), encoder)[0])
    assert [(name, segment) for name, segment, _ in event.losses] == [
        ("content", None),
        ("style", 0),
        ("style", 1),
        ("style", 2),
        ("tv", None),
    ]


def test_a_step_of_lbfgs_or_adam_is_one_event(encoder: Encoder) -> None:
    for optimizer in Optimizer:
        assert len(steps_of(run(few("gatys", optimizer=optimizer), encoder)[0])) == 3


class Canceller:
    """Cancels after so many steps; counts the steps, and how often it was asked since the last one."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.steps = 0
        self.polls = 0

    def __call__(self) -> bool:
        self.polls += 1
        return self.steps >= self._after

    def drive(self, request: TransferRequest, encoder: Encoder) -> None:
        for event in transfer(request, example_scene.inputs(request), encoder, cancelled=self):
            if isinstance(event, StepDone):
                self.steps += 1
                self.polls = 0


@pytest.mark.parametrize(("method", "after"), [("masked-gram", n) for n in (0, 1, 3)] + [("sequential", 3)])
def test_cancelling_takes_effect_before_the_next_step(method: str, after: int, encoder: Encoder) -> None:
    canceller = Canceller(after)
    with pytest.raises(CancelledError):
        canceller.drive(example_scene.request(method, {"steps": 4}), encoder)
    assert canceller.steps == after
    assert canceller.polls == 1


def test_cancelling_between_two_stages(encoder: Encoder) -> None:
    canceller = Canceller(4)
    with pytest.raises(CancelledError):
        canceller.drive(example_scene.request("sequential", {"steps": 4}), encoder)
    assert canceller.steps == 4


def test_is_polled_before_every_step(encoder: Encoder) -> None:
    request = few("sequential-smooth")
    polls = 0

    def cancelled() -> bool:
        nonlocal polls
        polls += 1
        return False

    seen = -1
    for event in transfer(request, example_scene.inputs(request), encoder, cancelled=cancelled):
        if isinstance(event, StepDone):
            assert polls > seen
            seen = polls


@pytest.mark.parametrize("start", [Start.CONTENT, Start.NOISE, Start.PALETTE])
@pytest.mark.parametrize("method", FEW)
def test_kept_segment_stays_to_the_bit(method: str, start: Start, encoder: Encoder) -> None:
    request = few(method, segments=KEEP_1, start=start)
    pictures = Pictures()
    events, result = run(request, encoder, watch=pictures)
    kept = example_scene.labels(96, 64) == 1
    content = example_scene.content(96, 64)
    assert np.array_equal(result[kept], content[kept])
    assert not np.array_equal(result[~kept], content[~kept])
    for picture in pictures.last.values():
        assert np.abs(picture[kept].astype(int) - content[kept]).max() <= 1
    assert "segment 1" not in {event.stage for event in steps_of(events)}
    assert all(segment != 1 for event in steps_of(events) for _, segment, _ in event.losses)


def test_kept_segment_stays_to_the_bit_of_the_resized_content(encoder: Encoder) -> None:
    request = few("masked-gram", segments=KEEP_1, size=(192, 128))
    request = type(request)(**{**vars(request), "output": type(request.output)(size=96)})
    inputs = example_scene.inputs(request)
    _, result = run(request, encoder)
    assert result.shape == (64, 96, 3)
    kept = inputs.labels == 1
    assert np.array_equal(result[kept], inputs.content[kept])


@pytest.mark.parametrize("method", FEW)
def test_same_request_and_seed_give_the_same_bits(method: str, encoder: Encoder) -> None:
    request = few(method, start=Start.NOISE, seed=7)
    (events, result), (again, same) = (run(request, encoder) for _ in range(2))
    assert np.array_equal(result, same)
    assert [event.losses for event in steps_of(events)] == [event.losses for event in steps_of(again)]


def test_noise_differs_by_seed(encoder: Encoder) -> None:
    starts = []
    for seed in (0, 1):
        pictures = Pictures()
        run(few("gatys", start=Start.NOISE, seed=seed), encoder, watch=pictures)
        starts.append(pictures.first["vanilla"].astype(int))
    assert np.abs(starts[0] - starts[1]).mean() > 20


def test_seed_does_not_matter_without_noise(encoder: Encoder) -> None:
    results = [run(few("gatys", seed=seed), encoder)[1] for seed in (0, 1)]
    assert np.array_equal(results[0], results[1])


def test_start_image_is_where_it_starts(encoder: Encoder) -> None:
    start = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    pictures = Pictures()
    request = few("masked-gram", start=Start.IMAGE, start_image=example_scene.png(start), segments=KEEP_1)
    run(request, encoder, watch=pictures)
    kept = (example_scene.labels(96, 64) == 1)[..., None]
    # L-BFGS evaluates at the start in its first step, and does not move before the second.
    assert np.array_equal(pictures.first["masked gram"], np.where(kept, example_scene.content(96, 64), start))


def test_palette_start_wears_each_styles_colours(encoder: Encoder) -> None:
    request = few("masked-gram", start=Start.PALETTE)
    inputs, pictures = example_scene.inputs(request), Pictures()
    run(request, encoder, watch=pictures)
    for segment, style in enumerate(inputs.styles):
        assert style is not None
        pixels = pictures.first["masked gram"][inputs.labels == segment]
        before = inputs.content[inputs.labels == segment]
        target = style.reshape(-1, 3).mean(axis=0)
        error, was = (np.abs(colours.mean(axis=0) - target).max() for colours in (pixels, before))
        assert error < 0.2 * was, segment


def test_sequential_puts_its_stages_together(encoder: Encoder) -> None:
    """Of each segment's stage only that segment's pixels are kept, and every picture shows all that is made so far."""
    pictures = Pictures()
    knobs = {"steps": 4, "smoothing_steps": 1, "smoothing_tv_weight": 0.0}
    _, result = run(example_scene.request("sequential", knobs), encoder, watch=pictures)
    labels = example_scene.labels(96, 64)
    assert np.array_equal(pictures.first["segment 1"], pictures.last["vanilla"])
    assert np.array_equal(pictures.first["segment 2"], pictures.last["segment 1"])
    assert np.array_equal(pictures.first["smoothing"], pictures.last["segment 2"])
    assert np.array_equal(pictures.first["smoothing"], result)
    for segment, before in ((1, "vanilla"), (2, "segment 1")):
        after = pictures.last[f"segment {segment}"]
        assert np.array_equal(after[labels != segment], pictures.last[before][labels != segment])
        assert not np.array_equal(after[labels == segment], pictures.last[before][labels == segment])


def test_every_segments_stage_starts_from_the_vanilla_result(encoder: Encoder) -> None:
    """What the stage of segment 1 has made is nothing to that of segment 2."""
    losses = []
    for factor in (1.0, 30.0):
        events, _ = run(few("sequential", segments=({}, {"style_weight": factor}, {})), encoder)
        losses.append({event.stage: event.losses for event in events if isinstance(event, StageDone)})
    assert losses[0]["segment 1"] != losses[1]["segment 1"]
    assert losses[0]["segment 2"] == losses[1]["segment 2"]


def test_another_background(encoder: Encoder) -> None:
    knobs = {**FEW["sequential"], "background": 2}
    events, _ = run(example_scene.request("sequential", knobs), encoder)
    names = [event.stage for event in events if isinstance(event, StageStarted)]
    assert names == ["vanilla", "segment 0", "segment 1", "smoothing"]
    vanilla = next(event for event in steps_of(events) if event.stage == "vanilla")
    assert ("style", 2) in {(name, segment) for name, segment, _ in vanilla.losses}


def test_smoothing_smooths(encoder: Encoder) -> None:
    pictures = Pictures()
    knobs = {"steps": 2, "smoothing_steps": 5}
    run(example_scene.request("sequential", knobs, start=Start.NOISE), encoder, watch=pictures)
    roughness = [
        np.abs(np.diff(picture.astype(int), axis=0)).mean()
        for picture in (pictures.first["smoothing"], pictures.last["smoothing"])
    ]
    assert roughness[1] < roughness[0]


def test_border_smoothing_leaves_the_inside_alone(encoder: Encoder) -> None:
    pictures = Pictures()
    knobs = {"steps": 2, "smoothing_steps": 1, "border_steps": 4, "border_radius": 3.0}
    run(example_scene.request("sequential-smooth", knobs), encoder, watch=pictures)
    before, after = pictures.first["border smoothing"].astype(int), pictures.last["border smoothing"].astype(int)
    labels = example_scene.labels(96, 64)
    changed = np.abs(after - before).max(axis=2) > 1
    padded = np.pad(labels, 5, mode="edge")
    near = np.zeros_like(labels, dtype=bool)
    for dy in range(11):
        for dx in range(11):
            near |= padded[dy : dy + 64, dx : dx + 96] != labels
    assert changed.any()
    assert not changed[~near].any()


def small_segment(side: int) -> np.ndarray:
    """Segment 2 is a square of that many pixels in segment 0; segment 1 is the right half."""
    label_map = np.zeros((64, 96), dtype=np.uint8)
    label_map[:, 48:] = 1
    label_map[8 : 8 + side, 8 : 8 + side] = 2
    return label_map


@pytest.mark.parametrize(
    ("side", "lost"), [(16, []), (15, ["relu5_1"]), (6, ["relu4_1", "relu5_1"]), (1, ["relu2_1", "relu3_1"])]
)
def test_small_segment_is_noticed(side: int, lost: list[str], encoder: Encoder) -> None:
    """A square of 15 pixels covers 225 of the 256 that make one at relu5_1."""
    events, result = run(few("masked-gram", label_map=small_segment(side)), encoder)
    notices = [event for event in events if isinstance(event, TransferWarning)]
    assert {notice.code for notice in notices} <= {"segment_lost_at_layer"}
    layers = [layer for notice in notices for layer in lost if layer in notice.message]
    assert layers == lost
    if side > 1:
        assert len(notices) == len(lost)
    assert all("segment 2 " in notice.message for notice in notices)
    assert isinstance(events[0], StageStarted)
    assert events[1 : 1 + len(notices)] == notices
    assert result.any()
    assert all(np.isfinite(event.total) for event in steps_of(events))


@pytest.mark.parametrize("paper", [False, True])
def test_papers_weights_on_the_embedded_encoder_are_noticed(paper: bool, encoder: Encoder) -> None:
    events, _ = run(few("gatys", paper=paper, optimizer=Optimizer.ADAM), encoder)
    codes = [event.code for event in events if isinstance(event, TransferWarning)]
    assert codes == (["paper_weights_for_torchvision"] if paper else [])


def test_colour_profile_notice_comes_first(encoder: Encoder) -> None:
    broken = example_scene.png(example_scene.content(96, 64), icc_profile=b"broken")
    request = few("gatys", segments=({"style": broken}, {}, {}))
    events, _ = run(request, encoder)
    assert isinstance(events[0], TransferWarning)
    assert events[0].code == "colour_profile_ignored"
    assert "segments[0].style.data" in events[0].message


@pytest.mark.parametrize("optimizer", Optimizer)
def test_objective_that_is_not_finite_is_refused(optimizer: Optimizer) -> None:
    """Feature maps of these weights overflow float32 once squared."""
    huge = [(weight * 1e25, bias) for weight, bias in load_weights("embedded")[:1]]
    weights = [*huge, *load_weights("embedded")[1:]]
    encoder = Encoder(weights, device=torch.device("cpu"), precision=torch.float32)
    request = few("gatys", paper=True, optimizer=optimizer)
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
    with pytest.raises(InvalidInputError, match="not finite") as caught:
        assert not any(isinstance(event, StepDone) for event in generator)
    assert caught.value.field == "method"
