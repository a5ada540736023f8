"""A segment's own stage works on its surroundings alone, and gives it what the whole picture would give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.inputs import MIN_SIDE
from intarsia_server.engine.methods import Content, Stage, Style, TotalVariation, stages
from intarsia_server.engine.objective import ObjectiveBuilder
from intarsia_server.engine.request import SoftMask, SoftMasks, Start, TransferRequest
from intarsia_server.engine.stages import StageStarted
from intarsia_server.engine.transfer import transfer
from intarsia_server.engine.window import GRID, MARGIN, WHOLE, Window, window_around
from PIL import Image, ImageFilter
from torch import Tensor

WIDTH, HEIGHT = 224, 160
Box = tuple[int, int, int, int]
"""Top, bottom, left, right."""

MIDDLE: Box = (68, 92, 100, 130)
CORNER: Box = (0, 24, 0, 30)
EDGE: Box = (60, 90, 200, 224)
STYLE_TOLERANCE = 0.02
GRADIENT_TOLERANCE = 0.03
"""What the margin leaves of the difference (docs/methods.md)."""
OTHER: Box = (136, 160, 100, 200)
"""Of segment 2, whose pixels lie in some windows of segment 1 and not in others."""


def labels(box: Box) -> np.ndarray:
    """Segment 1 in a box, segment 2 in another, 0 elsewhere."""
    result = np.zeros((HEIGHT, WIDTH), np.uint8)
    for label, (top, bottom, left, right) in ((2, OTHER), (1, box)):
        result[top:bottom, left:right] = label
    return result


def request(box: Box, method: str = "sequential", knobs: Mapping[str, Any] | None = None, **options: Any) -> Any:
    knobs = {"coarse_steps": 0, **(knobs or {})}
    return example_scene.request(method, knobs, size=(WIDTH, HEIGHT), label_map=labels(box), **options)


def builder_of(of: TransferRequest, encoder: Encoder) -> ObjectiveBuilder:
    return ObjectiveBuilder(encoder, example_scene.inputs(of), of.segments, paper=of.paper, cancelled=lambda: False)


def plan_of(of: TransferRequest) -> tuple[Stage, ...]:
    styled = tuple(index for index, segment in enumerate(of.segments) if segment.style is not None)
    return stages(of.parameters, styled, paper=of.paper, size=(WIDTH, HEIGHT))


def run(of: TransferRequest, encoder: Encoder) -> tuple[dict[str, list[StepDone]], np.ndarray]:
    """The steps of each stage, and the result."""
    generator = transfer(of, example_scene.inputs(of), encoder, cancelled=lambda: False)
    steps: dict[str, list[StepDone]] = {}
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            return steps, stop.value
        if isinstance(event, StageStarted):
            steps[event.stage] = []
        if isinstance(event, StepDone):
            event.image()
            steps[event.stage].append(event)


def mask(box: Box, height: int, width: int) -> Tensor:
    result = torch.zeros(height, width)
    result[box[0] : box[1], box[2] : box[3]] = 1
    return result


@pytest.mark.parametrize(
    ("box", "height", "width"),
    [
        ((200, 264, 300, 380), 400, 600),
        ((0, 30, 0, 30), 400, 600),
        ((399, 400, 599, 600), 400, 600),
        ((187, 188, 333, 334), 400, 600),
        ((0, 400, 597, 598), 400, 600),
        ((100, 101, 100, 101), 203, 317),
        ((202, 203, 316, 317), 203, 317),
        ((0, 1, 0, 1), MIN_SIDE, 500),
    ],
)
def test_window_lies_on_the_grid_around_the_segment(box: Box, height: int, width: int) -> None:
    window = window_around(mask(box, height, width))
    assert window is not None
    for (first, last), (start, end), side in (
        (box[:2], (window.top, window.bottom), height),
        (box[2:], (window.left, window.right), width),
    ):
        assert 0 <= start <= max(0, first - MARGIN)
        assert max(0, first - MARGIN) - start < GRID
        assert min(side, last + MARGIN) <= end <= side
        assert end - min(side, last + MARGIN) < GRID
        assert start % GRID == 0
        assert end % GRID == 0 or end == side
        assert end - start >= MIN_SIDE
    assert window.share == pytest.approx((window.bottom - window.top) * (window.right - window.left) / height / width)
    assert window.share <= WHOLE


@pytest.mark.parametrize("box", [(0, 400, 0, 600), (60, 340, 60, 540), (0, 1, 0, 600)])
def test_nearly_the_whole_picture_has_no_window(box: Box) -> None:
    scattered = mask(box, 400, 600)
    scattered[-1, -1] = 1
    assert window_around(scattered) is None


def test_crop_and_paste() -> None:
    picture = torch.arange(2 * 48 * 64.0).reshape(1, 2, 48, 64)
    window = Window(16, 48, 16, 64, 0.5)
    part = window.crop(picture)
    assert part.is_contiguous()
    assert torch.equal(part, picture[:, :, 16:48, 16:64])
    pasted = window.paste(part + 1, picture)
    assert torch.equal(window.crop(pasted), part + 1)
    assert int((pasted != picture).sum()) == part.numel()
    assert torch.equal(window.crop(picture), part)


def soft(box: Box, radius: float) -> SoftMasks:
    """The three segments' masks, blurred."""
    found = labels(box)
    masks = []
    for label in range(3):
        hard = Image.fromarray(((found == label) * 255).astype(np.uint8))
        masks.append(SoftMask(label, example_scene.png(hard.filter(ImageFilter.GaussianBlur(radius)))))
    return SoftMasks(tuple(masks))


SCENES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "content counts": {"knobs": {"content_weight": 5.0}},
    "weights": {
        "knobs": {"content_weight": 1.0},
        "segments": ({"content_weight": 0.3}, {"content_weight": 2.0, "style_weight": 1.5}, {"content_weight": 4.0}),
    },
    "kept": {"knobs": {"content_weight": 1.0}, "segments": ({}, {}, {"style": None})},
    "soft": {"knobs": {"content_weight": 1.0}, "segmentation": soft(MIDDLE, 2)},
}


@pytest.mark.parametrize("box", [MIDDLE, CORNER, EDGE])
@pytest.mark.parametrize("scene", SCENES)
def test_objective_within_the_segment_is_the_whole_pictures(scene: str, box: Box, encoder: Encoder) -> None:
    """Style's value, and the gradient at the segment's pixels: content against style in the same balance as ever."""
    options = dict(SCENES[scene])
    if "segmentation" in options:
        options["segmentation"] = soft(box, 2)
    of = request(box, **options)
    builder = builder_of(of, encoder)
    stage = next(stage for stage in plan_of(of) if stage.scope == 1)
    assert stage.windowed
    window = window_around(builder.masks[1])
    assert window is not None
    noise = torch.randn(builder.content.shape, generator=torch.Generator().manual_seed(3))
    image = torch.where(
        builder.free > 0, builder.recolour(builder.content, stage.losses) + 0.3 * noise, builder.content
    )
    whole = builder.build(stage.losses, capped=False)(image)
    part = builder.build(stage.losses, capped=False, window=window)(window.crop(image))
    assert [term[:2] for term in part.losses] == [term[:2] for term in whole.losses]
    style, expected_style = part.losses[1][2], whole.losses[1][2]
    assert style == pytest.approx(expected_style, rel=STYLE_TOLERANCE)
    own = torch.from_numpy(labels(box) == 1)
    gradient = window.paste(part.gradient, torch.zeros_like(image))[..., own]
    expected = whole.gradient[..., own]
    assert float((gradient - expected).norm() / expected.norm()) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("box", [MIDDLE, CORNER, EDGE])
def test_content_of_a_change_in_the_segment_counts_as_in_the_whole_picture(box: Box, encoder: Encoder) -> None:
    builder = builder_of(request(box, segments=({}, {"content_weight": 3.0}, {})), encoder)
    window = window_around(builder.masks[1])
    assert window is not None
    noise = torch.randn(builder.content.shape, generator=torch.Generator().manual_seed(3))
    image = builder.content + 0.3 * noise * builder.masks[1]
    content = (Content(weight=1.0),)
    whole = builder.build(content, capped=False)(image)
    part = builder.build(content, capped=False, window=window)(window.crop(image))
    assert whole.total > 0
    assert part.total == pytest.approx(whole.total, rel=STYLE_TOLERANCE)


def test_content_image_itself_is_at_no_distance(encoder: Encoder) -> None:
    """At the window's edges too, where features are not those of the whole picture."""
    builder = builder_of(request(MIDDLE), encoder)
    window = window_around(builder.masks[1])
    assert window is not None
    objective = builder.build((Content(weight=1.0),), capped=False, window=window)
    assert objective(window.crop(builder.content)).total == 0


@pytest.mark.parametrize(
    "loss", [TotalVariation(weight=1.0), Style(weight=1.0, segments=(1,), masked=False)], ids=["tv", "whole style"]
)
def test_losses_of_the_whole_picture_have_no_window(loss: Any, encoder: Encoder) -> None:
    builder = builder_of(request(MIDDLE), encoder)
    with pytest.raises(ValueError, match="of the whole picture"):
        builder.build((loss,), capped=False, window=window_around(builder.masks[1]))


@pytest.mark.parametrize("method", ["sequential", "sequential-smooth"])
@pytest.mark.parametrize("box", [MIDDLE, CORNER, (100, 101, 7, 8)])
def test_a_stage_changes_its_segments_pixels_alone(box: Box, method: str, encoder: Encoder) -> None:
    of = request(box, method, {"steps": 3}, start=Start.PALETTE)
    before: dict[str, np.ndarray] = {}
    after: dict[str, np.ndarray] = {}
    stage = ""
    picture = np.zeros(0)
    for event in transfer(of, example_scene.inputs(of), encoder, cancelled=lambda: False):
        if isinstance(event, StageStarted):
            before[event.stage], stage = picture, event.stage
        if isinstance(event, StepDone):
            after[stage] = picture = event.image()
    own = labels(box) == 1
    changed = (before["segment 1"] != after["segment 1"]).any(axis=2)
    assert changed[own].mean() > 0.9
    assert not changed[~own].any()
    other = (before["segment 2"] != after["segment 2"]).any(axis=2)
    assert not other[labels(box) != 2].any()


@pytest.mark.parametrize("start", [Start.PALETTE, Start.NOISE])
def test_kept_segments_stay_to_the_bit(start: Start, encoder: Encoder) -> None:
    """The kept one is the middle one, which lies in the window of the other."""
    of = request(MIDDLE, knobs={"steps": 2}, segments=({}, {"style": None}, {}), start=start)
    content = example_scene.inputs(of).content
    kept = labels(MIDDLE) == 1
    window = window_around(torch.from_numpy(labels(MIDDLE) == 2))
    assert window is not None
    assert window.crop(torch.from_numpy(kept)).any()
    for event in transfer(of, example_scene.inputs(of), encoder, cancelled=lambda: False):
        if isinstance(event, StepDone):
            assert np.array_equal(event.image()[kept], content[kept])


def shares(box: Box) -> list[float]:
    """Of the windows of segments 1 and 2."""
    windows = [window_around(torch.from_numpy(labels(box) == index)) for index in (1, 2)]
    return [1.0 if window is None else window.share for window in windows]


def test_a_step_counts_as_much_as_its_window(encoder: Encoder) -> None:
    steps, _ = run(request(CORNER, knobs={"steps": 2, "smoothing_steps": 1}), encoder)
    one, two = shares(CORNER)
    assert one < 0.5
    costs = [1, 1, one, one, two, two, 1]
    fractions = [step.fraction for stage in steps.values() for step in stage]
    assert fractions == pytest.approx((np.cumsum(costs) / sum(costs)).tolist())


def test_the_publications_stages_see_the_whole_picture(encoder: Encoder) -> None:
    of = request(CORNER, knobs={"steps": 1, "smoothing_steps": 1}, paper=True)
    assert not any(stage.windowed for stage in plan_of(of))
    steps, _ = run(of, encoder)
    assert [step.fraction for stage in steps.values() for step in stage] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_a_segment_that_is_nearly_the_whole_picture_has_the_whole_objective(encoder: Encoder) -> None:
    """The content loss says which: outside a window it is not counted."""
    box = (0, 150, 8, WIDTH)
    of = request(box, knobs={"steps": 1}, segments=({}, {}, {"style": None}))
    steps, _ = run(of, encoder)
    builder = builder_of(of, encoder)
    stage = plan_of(of)[1]
    assert window_around(builder.masks[1]) is None
    expected = builder.build(stage.losses, capped=False)(builder.content)
    assert steps["segment 1"][0].losses == expected.losses


def test_window_reaches_as_far_as_a_soft_mask_does(encoder: Encoder) -> None:
    hard = builder_of(request(CORNER), encoder)
    blurred = builder_of(request(CORNER, segmentation=soft(CORNER, 12)), encoder)
    narrow, wide = window_around(hard.masks[1]), window_around(blurred.masks[1])
    assert narrow is not None
    assert wide is not None
    assert wide.right > narrow.right
    assert float(wide.crop(blurred.masks[1]).sum()) == pytest.approx(float(blurred.masks[1].sum()), rel=1e-5)
