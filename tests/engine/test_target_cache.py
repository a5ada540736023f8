"""Statistics of style images that outlive a job: the bound, what makes a hit, and the same bits with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine import style_images
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.images import DecodedImage
from intarsia_server.engine.palette import Palette
from intarsia_server.engine.request import Start, TransferRequest
from intarsia_server.engine.stages import StageDone
from intarsia_server.engine.target_cache import ENTRY_BYTES, Counts, JobTargets, TargetCache
from intarsia_server.engine.transfer import transfer
from intarsia_server.engine.weights import load_weights

LARGE = 2**28
COARSE = (128, 128)
"""Large enough for a coarse stage at half of it."""

SMOOTH = {"steps": 1, "smoothing_steps": 1, "border_steps": 1}
REQUESTS: Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "gatys": ("gatys", {"steps": 1}, {}),
    "masked-gram": ("masked-gram", {"steps": 1, "coarse_steps": 1}, {"start": Start.PALETTE}),
    "masked-gram of the paper": ("masked-gram", {"steps": 1}, {"paper": True}),
    "sequential-smooth": ("sequential-smooth", SMOOTH, {"start": Start.PALETTE}),
    "sequential-smooth of the paper": ("sequential-smooth", SMOOTH, {"paper": True}),
    "single-shot": ("single-shot", {"steps": 1}, {"start": Start.PALETTE}),
    "single-shot of the paper": ("single-shot", {"steps": 1}, {"paper": True}),
    "blended": ("blended", {"steps": 1, "coarse_steps": 1, "harmony": 0.5}, {"start": Start.PALETTE}),
    "blended with a kept segment": ("blended", {"steps": 1}, {"segments": ({}, {"style": None}, {})}),
}
"""Method, knobs and the rest of a request."""


def run(
    request: TransferRequest, encoder: Encoder, cache: TargetCache | None
) -> tuple[np.ndarray, list[StepDone], Counts]:
    """The result, every step, and how many targets there were in all stages."""
    generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False, targets=cache)
    steps: list[StepDone] = []
    counts = Counts()
    while True:
        try:
            event = next(generator)
        except StopIteration as stop:
            return stop.value, steps, counts
        if isinstance(event, StepDone):
            steps.append(event)
        elif isinstance(event, StageDone):
            counts = Counts(counts.total + event.targets, counts.cached + event.cached_targets)


def blended(**changes: Any) -> TransferRequest:
    """One step, at full size only, its palettes moved."""
    knobs = {"steps": 1, "coarse_steps": 0, "harmony": 0.5}
    return example_scene.request("blended", knobs | changes.pop("knobs", {}), **changes)


def grams(value: float, channels: int = 16) -> dict[str, torch.Tensor]:
    return {"relu1_1": torch.full((channels, channels), value)}


GRAMS_BYTES = ENTRY_BYTES + 16 * 16 * 4


@pytest.mark.parametrize("name", REQUESTS)
def test_a_hit_gives_the_same_bits_and_decodes_no_style(
    name: str, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, knobs, rest = REQUESTS[name]
    request = example_scene.request(method, knobs, size=COARSE, **rest)
    fresh, fresh_steps, fresh_counts = run(request, encoder, None)
    cache = TargetCache(LARGE)
    first, _, first_counts = run(request, encoder, cache)
    if method != "single-shot":  # its surrogate is put together before anything can be known of it

        def undecodable(data: bytes, field: str, *, max_pixels: int) -> DecodedImage:
            raise AssertionError(f"{field} was decoded")

        monkeypatch.setattr(style_images, "decode_rgb", undecodable)
    second, second_steps, second_counts = run(request, encoder, cache)
    assert np.array_equal(fresh, first)
    assert np.array_equal(fresh, second)
    assert [step.losses for step in fresh_steps] == [step.losses for step in second_steps]
    assert fresh_counts == first_counts
    assert first_counts.total > 0
    assert first_counts.cached == 0
    assert second_counts == Counts(first_counts.total, first_counts.total)


def test_another_job_finds_what_is_the_same_and_nothing_else(encoder: Encoder) -> None:
    """Labels say where the middle of all palettes lies; without harmony another label map changes nothing."""
    plain = {"harmony": 0.0}
    swapped = 2 - example_scene.labels(96, 64)
    one_new = ({"style": example_scene.style("ink", 100)}, {}, {})
    one_scaled = ({}, {"style_scale": 1.5}, {})
    cases: Mapping[str, tuple[TransferRequest, TransferRequest, int]] = {
        "same": (blended(), blended(), 3),
        "another seed, step count and weights": (
            blended(),
            replace(blended(knobs={"steps": 2, "content_weight": 1.0, "feather": 3.0}), seed=9),
            3,
        ),
        "another label map": (blended(knobs=plain), blended(knobs=plain, label_map=swapped), 3),
        "another label map, with harmony": (blended(), blended(label_map=swapped), 0),
        "one other picture": (blended(knobs=plain), blended(knobs=plain, segments=one_new), 2),
        "one other picture, with harmony": (blended(), blended(segments=one_new), 0),
        "one other scale": (blended(knobs=plain), blended(knobs=plain, segments=one_scaled), 2),
        "another size": (blended(), blended(size=(120, 80)), 0),
        "another harmony": (blended(), blended(knobs={"harmony": 0.25}), 0),
        "without harmony": (blended(), blended(knobs=plain), 0),
        "cropped": (
            example_scene.request("masked-gram", {"steps": 1, "coarse_steps": 0}),
            example_scene.request("masked-gram", {"steps": 1, "coarse_steps": 0}, paper=True),
            0,
        ),
    }
    for name, (one, other, expected) in cases.items():
        cache = TargetCache(LARGE)
        run(one, encoder, cache)
        alone, _, _ = run(other, encoder, None)
        result, _, counts = run(other, encoder, cache)
        assert counts == Counts(3, expected), name
        assert np.array_equal(result, alone), name


def test_the_surrogate_is_told_apart_by_what_it_shows(encoder: Encoder) -> None:
    cache = TargetCache(LARGE)
    swapped = 2 - example_scene.labels(96, 64)
    knobs = {"steps": 1}
    for label_map, expected in ((None, 0), (None, 1), (swapped, 0)):
        request = example_scene.request("single-shot", knobs, label_map=label_map)
        assert run(request, encoder, cache)[2] == Counts(1, expected)


def test_encoders_do_not_share(encoder: Encoder) -> None:
    """Neither one of another precision, nor one of other weights."""
    weights = load_weights("embedded")
    coarse = Encoder(weights, device=encoder.device, precision=torch.bfloat16)
    louder = [(weight * 1.01, bias) for weight, bias in weights]
    other = Encoder(louder, device=encoder.device, precision=torch.float32)
    cache = TargetCache(LARGE)
    for each in (encoder, coarse, other):
        assert run(blended(), each, cache)[2] == Counts(3, 0)
        assert run(blended(), each, cache)[2] == Counts(3, 3)


def test_segments_of_one_style_share_one_target(encoder: Encoder) -> None:
    style = {"style": example_scene.style("ink", 100)}
    assert run(blended(segments=(style, style, {})), encoder, TargetCache(LARGE))[2] == Counts(2, 0)


def test_half_size_is_a_target_of_its_own(encoder: Encoder) -> None:
    cache = TargetCache(LARGE)
    assert run(blended(size=COARSE, knobs={"coarse_steps": 1}), encoder, cache)[2] == Counts(6, 0)
    assert run(blended(size=COARSE), encoder, cache)[2] == Counts(3, 3)


def test_without_room_every_job_computes_its_own(encoder: Encoder) -> None:
    for capacity in (0, ENTRY_BYTES):
        cache = TargetCache(capacity)
        for _ in range(2):
            assert run(blended(), encoder, cache)[2] == Counts(3, 0)
        assert cache.size == 0


def test_a_job_computes_once_what_does_not_fit() -> None:
    calls: list[int] = []

    def compute() -> dict[str, torch.Tensor]:
        calls.append(1)
        return grams(1.0)

    job = JobTargets(TargetCache(0))
    assert job.grams("key", compute) is job.grams("key", compute)
    assert len(calls) == 1
    assert job.counts == Counts(1, 0)


def test_the_least_recently_used_goes_first() -> None:
    cache = TargetCache(3 * GRAMS_BYTES)
    for name in "abc":
        cache.put(name, grams(1.0))
    assert cache.get("a") is not None
    cache.put("d", grams(1.0))
    assert [cache.get(name) is not None for name in "abcd"] == [True, False, True, True]


def test_the_bound_holds() -> None:
    cache = TargetCache(10 * GRAMS_BYTES)
    for number in range(100):
        cache.put(number, grams(1.0, channels=1 + number % 40))
        cache.put(f"palette {number}", Palette(torch.zeros(3), torch.zeros(3, 3)))
        assert 0 < cache.size <= 10 * GRAMS_BYTES
    held = [value for number in range(100) if (value := cache.get(number)) is not None]
    assert held
    assert sum(tensor.nbytes for value in held for tensor in value.values()) <= cache.size
    cache.put("huge", grams(1.0, channels=1000))
    assert cache.get("huge") is None
    assert cache.get("palette 99") is not None


def test_a_key_put_again_counts_once() -> None:
    cache = TargetCache(LARGE)
    cache.put("a", grams(1.0, channels=40))
    cache.put("a", grams(2.0))
    assert cache.size == GRAMS_BYTES
    assert float(cache.get("a")["relu1_1"][0, 0]) == 2.0
