"""Transfers whose segments come from something other than a label map."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import example_scene
import numpy as np
import pytest
from example_scene import MAX_PIXELS
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import StepDone, TransferWarning
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.label_finder import Tools
from intarsia_server.engine.request import (
    Automatic,
    Box,
    Boxes,
    LabelMapSource,
    Scribbles,
    Segmentation,
    SegmentationModel,
    SoftMask,
    SoftMasks,
    TransferRequest,
)
from intarsia_server.engine.transfer import describe, transfer
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 64, 48
STEPS = {
    "gatys": {"steps": 2},
    "masked-gram": {"steps": 2},
    "sequential": {"steps": 2, "smoothing_steps": 1},
    "sequential-smooth": {"steps": 2, "smoothing_steps": 1, "border_steps": 1},
    "single-shot": {"steps": 2},
    "blended": {"steps": 2},
}


def example_request(method: str, segmentation: Segmentation | None = None, **options: Any) -> TransferRequest:
    return example_scene.request(method, STEPS.get(method), size=(WIDTH, HEIGHT), segmentation=segmentation, **options)


def soft_masks() -> SoftMasks:
    """The example's label map, blurred: three masks."""
    labels = example_scene.labels(WIDTH, HEIGHT)
    masks = []
    for label in range(3):
        hard = Image.fromarray(((labels == label) * 255).astype(np.uint8))
        masks.append(SoftMask(label, example_scene.png(hard.filter(ImageFilter.GaussianBlur(3)))))
    return SoftMasks(tuple(masks))


def run(request: TransferRequest, encoder: Encoder, tools: Tools) -> tuple[list[object], np.ndarray]:
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS, tools=tools)
    steps = transfer(request, inputs, encoder, cancelled=lambda: False)
    events: list[object] = []
    while True:
        try:
            events.append(next(steps))
        except StopIteration as stop:
            return events, stop.value


@pytest.mark.parametrize("method", STEPS)
def test_every_method_takes_soft_masks(method: str, encoder: Encoder) -> None:
    """The second segment is kept, whose pixels are those where its mask is the greatest."""
    request = example_request(method, segmentation=soft_masks(), segments=({}, {"style": None}, {}))
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    events, result = run(request, encoder, Tools())
    assert all(np.isfinite(event.total) for event in events if isinstance(event, StepDone))
    kept = inputs.labels == 1
    assert np.array_equal(result[kept], inputs.content[kept])
    assert not np.array_equal(result[~kept], inputs.content[~kept])


def test_soft_masks_reach_the_objective(encoder: Encoder) -> None:
    """Else softening them would change nothing."""
    soft = run(example_request("masked-gram", segmentation=soft_masks()), encoder, Tools())
    hard = run(example_request("masked-gram"), encoder, Tools())
    assert not np.array_equal(soft[1], hard[1])


def test_hard_masks_are_the_label_map(encoder: Encoder) -> None:
    labels = example_scene.labels(WIDTH, HEIGHT)
    masks = SoftMasks(
        tuple(SoftMask(label, example_scene.png(((labels == label) * 255).astype(np.uint8))) for label in range(3))
    )
    soft = run(example_request("blended", segmentation=masks), encoder, Tools())
    hard = run(example_request("blended"), encoder, Tools())
    assert np.array_equal(soft[1], hard[1])


@pytest.mark.parametrize("method", STEPS)
def test_an_absent_segment_has_no_loss_and_no_stage(method: str, encoder: Encoder) -> None:
    """Classes 0 and 1 are found, 2 is not; as a background, whose style all pixels would wear, it is refused."""
    labels = (example_scene.labels(WIDTH, HEIGHT) > 0).astype(np.int32)
    request = example_request(method, segmentation=Automatic(SegmentationModel.FCN_RESNET101), segments=({}, {}, {}))
    for absent in (0, 2):
        owners = [(2,), (0,), (1,)] if absent == 0 else [(0,), (1,), (2,)]
        segments = tuple(replace(s, labels=own) for s, own in zip(request.segments, owners, strict=True))
        if absent == 0 and hasattr(request.parameters, "background"):
            with pytest.raises(InvalidInputError, match=r"segments\[0\] has no pixel") as refused:
                run(replace(request, segments=segments), encoder, Tools(classify=lambda *_: labels))
            assert refused.value.field == f"{method.replace('-', '_')}.background"
            continue
        events, result = run(replace(request, segments=segments), encoder, Tools(classify=lambda *_: labels))
        losses = {segment for event in events if isinstance(event, StepDone) for _, segment, _ in event.losses}
        background = {0} if method in ("gatys", "sequential", "sequential-smooth") else set()
        assert losses - background <= {None, 0, 1, 2} - {absent}
        codes = {event.code for event in events if isinstance(event, TransferWarning)}
        assert "segment_absent" in codes
        assert result.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LabelMapSource(b"map"), {"label_map_sha256"}),
        (SoftMasks((SoftMask(3, b"mask"),)), {"soft_masks"}),
        (Boxes((Box(1, 2, 3, 40, 50),)), {"boxes"}),
        (Scribbles(b"marks"), {"scribbles_sha256"}),
        (Automatic(SegmentationModel.FCN_RESNET101), {"automatic"}),
    ],
)
def test_the_results_text_says_where_the_segments_came_from(source: Segmentation, expected: set[str]) -> None:
    request = replace(example_request("masked-gram"), segmentation=source)
    text = json.loads(describe(request, {"intarsia": "1"})["intarsia"])
    assert set(text["segmentation"]) == expected
