"""What the encoder sees tile by tile gives the losses and the gradient of the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import example_scene
import numpy as np
import pytest
import torch
from intarsia_server.engine.cancel import never
from intarsia_server.engine.checkpoint import Checkpoint
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import CancelledError
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.methods import Content, Stage, Style, stages
from intarsia_server.engine.objective import Objective, ObjectiveBuilder
from intarsia_server.engine.optimizers import Evaluation
from intarsia_server.engine.request import SoftMask, SoftMasks, Start, TransferRequest
from intarsia_server.engine.tile_share import Comparisons, Part, Place, Sums
from intarsia_server.engine.tiled_objective import TiledObjective
from intarsia_server.engine.tiles import tiles_of
from intarsia_server.engine.transfer import TransferShare, encoder_for, transfer
from intarsia_server.engine.window import window_around
from PIL import Image, ImageFilter
from torch import Tensor

SIZE = (331, 239)

CLOSE = 1e-5

TILE = 55_000
"""Pixels of a tile; `SIZE` takes four."""

CUTS = {3: ((561, 71), 25_000), 8: (SIZE, 1), 12: ((421, 331), 57_000)}
"""(width, height), odd and no multiples of what the encoder pools, and pixels of a tile, by the number of tiles."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "gatys": {},
    "masked-gram": {},
    "masked-gram capped": {"capped_gradients": True},
    "sequential": {},
    "sequential-smooth": {},
    "single-shot": {},
    "blended": {},
}


def request(method: str, knobs: Mapping[str, Any] | None = None, **options: Any) -> TransferRequest:
    if "paper" not in options:
        knobs = {"coarse_steps": 0, **(knobs or {})}
    return example_scene.request(method, knobs, size=options.pop("size", SIZE), **options)


def builder_of(of: TransferRequest, encoder: Encoder, tile_pixels: int | None) -> ObjectiveBuilder:
    return ObjectiveBuilder(
        encoder_for(of, encoder),
        example_scene.inputs(of),
        of.segments,
        paper=of.paper,
        cancelled=never,
        tile_pixels=tile_pixels,
    )


def plan_of(of: TransferRequest, size: tuple[int, int] = SIZE) -> tuple[Stage, ...]:
    styled = tuple(index for index, segment in enumerate(of.segments) if segment.style is not None)
    return stages(of.parameters, styled, paper=of.paper, size=size)


def noisy(content: Tensor) -> Tensor:
    return content + 0.3 * torch.randn(content.shape, generator=torch.Generator().manual_seed(3))


def assert_same(tiled: Evaluation, whole: Evaluation) -> None:
    assert tiled.terms == whole.terms
    torch.testing.assert_close(tiled.values, whole.values, rtol=CLOSE, atol=0)
    assert float(whole.gradient.norm()) > 0
    assert float((tiled.gradient - whole.gradient).norm() / whole.gradient.norm()) <= CLOSE


def compare(of: TransferRequest, encoder: Encoder, tile_pixels: int, size: tuple[int, int] = SIZE) -> None:
    """Every stage's losses and gradient."""
    whole, tiled = builder_of(of, encoder, None), builder_of(of, encoder, tile_pixels)
    for stage in plan_of(of, size):
        window = window_around(whole.mask(stage.scope)) if stage.windowed and stage.scope is not None else None
        image = noisy(whole.content if window is None else window.crop(whole.content))
        expected = whole.build(stage.losses, capped=stage.capped, window=window)
        found = tiled.build(stage.losses, capped=stage.capped, window=window)
        assert isinstance(expected, Objective)
        assert window is not None or isinstance(found, TiledObjective)
        assert_same(found(image), expected(image))
        assert tiled.warnings == whole.warnings


def soft() -> SoftMasks:
    """The example's segments, blurred."""
    found = example_scene.labels(*SIZE)
    masks = []
    for label in range(3):
        hard = Image.fromarray(((found == label) * 255).astype(np.uint8))
        masks.append(SoftMask(label, example_scene.png(hard.filter(ImageFilter.GaussianBlur(4)))))
    return SoftMasks(tuple(masks))


@pytest.mark.parametrize(
    ("method", "count"),
    [*((method, 3) for method in METHODS), ("masked-gram capped", 8), ("single-shot", 8), ("blended", 12)],
)
def test_every_method(method: str, count: int, encoder: Encoder) -> None:
    size, pixels = CUTS[count]
    assert len(tiles_of(size[1], size[0], pixels)) == count
    compare(request(method.partition(" ")[0], METHODS[method], size=size), encoder, pixels, size)


@pytest.mark.parametrize("method", ["gatys", "masked-gram", "sequential", "single-shot"])
def test_the_publications_objective(method: str, encoder: Encoder) -> None:
    compare(request(method, paper=True), encoder, TILE)


@pytest.mark.parametrize(
    "options",
    [
        {"segmentation": soft()},
        {"segments": ({}, {"style": None}, {})},
        {"segments": ({"content_weight": 0.3}, {"content_weight": 2.0, "style_weight": 1.5}, {"style_scale": 0.6})},
    ],
    ids=["soft masks", "kept", "weights"],
)
@pytest.mark.parametrize("method", ["blended", "masked-gram", "single-shot"])
def test_whatever_the_segments(method: str, options: Mapping[str, Any], encoder: Encoder) -> None:
    compare(request(method, **options), encoder, TILE)


@pytest.mark.parametrize("size", [(257, 113), (160, 256), (33, 523)])
def test_odd_sizes(size: tuple[int, int], encoder: Encoder) -> None:
    compare(request("blended", size=size), encoder, 1, size)


@pytest.mark.parametrize("harmony", [0.0, 0.7])
def test_palettes(harmony: float, encoder: Encoder) -> None:
    of = request("blended", {"harmony": harmony})
    (stage,) = plan_of(of)
    found, expected = (
        (builder := builder_of(of, encoder, pixels)).recolour(builder.content, stage.losses) for pixels in (1, None)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_no_style_no_first_pass(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = builder_of(request("blended"), encoder, TILE)
    content = builder.build((Content(weight=1.0),), capped=False)
    monkeypatch.setattr(Encoder, "__call__", None)
    assert content(noisy(builder.content)).total > 0


def test_cancelled_between_tiles(encoder: Encoder) -> None:
    builder = builder_of(request("masked-gram"), encoder, TILE)
    objective = builder.build((Style(weight=1.0, segments=(0, 1, 2), masked=True),), capped=False)
    polls = iter([False, False, False, True])
    assert isinstance(objective, TiledObjective)
    objective._cancelled = lambda: next(polls)
    with pytest.raises(CancelledError):
        objective(builder.content)
    assert next(polls, None) is None


def run(of: TransferRequest, encoder: Encoder, tile_pixels: int | None) -> list[StepDone]:
    events = transfer(of, example_scene.inputs(of), encoder, cancelled=never, tile_pixels=tile_pixels)
    return [event for event in events if isinstance(event, StepDone)]


def test_a_transfer_is_the_same_but_for_rounding(encoder: Encoder) -> None:
    of = example_scene.request("blended", {"steps": 4, "coarse_steps": 2}, size=SIZE, start=Start.PALETTE)
    for found, expected in zip(run(of, encoder, TILE), run(of, encoder, None), strict=True):
        assert found.total == pytest.approx(expected.total, rel=1e-3)


def test_the_same_bits_from_a_checkpoint(encoder: Encoder) -> None:
    of = example_scene.request("masked-gram", {"steps": 4, "coarse_steps": 0}, size=(257, 113))
    events = transfer(of, example_scene.inputs(of), encoder, cancelled=never, tile_pixels=1)
    told: list[Any] = []
    middle: Checkpoint | None = None
    for event in events:
        if isinstance(event, StepDone):
            told.append((event.losses, event.exact().numpy().tobytes()))
            if event.step == 2:
                found = event.checkpoint()
                middle = replace(found, optimizer={name: tensor.clone() for name, tensor in found.optimizer.items()})
    assert middle is not None
    events = transfer(of, example_scene.inputs(of), encoder, cancelled=never, tile_pixels=1, resume=middle)
    again = [(event.losses, event.exact().numpy().tobytes()) for event in events if isinstance(event, StepDone)]
    assert again == told[2:]


class Helper:
    """Another worker's share, done in this process when it is waited for."""

    def __init__(self, share: TransferShare) -> None:
        self._share = share

    def sums(self, image: Tensor) -> Callable[[], Sums]:
        sent = image.clone()
        return lambda: self._share.sums(sent)

    def part(self, compared: Comparisons) -> Callable[[], Part]:
        return lambda: self._share.part(compared)


class Gathered:
    """So many workers beside the one that runs the transfer."""

    def __init__(self, of: TransferRequest, encoder: Encoder, tile_pixels: int, count: int) -> None:
        inputs = example_scene.inputs(of)
        self._all = [
            TransferShare(of, inputs, encoder, tile_pixels=tile_pixels, place=Place(place, count + 1))
            for place in range(1, count + 1)
        ]

    def shares(self, stage: int) -> list[Helper]:
        for share in self._all:
            share.begin(stage)
        return [Helper(share) for share in self._all]


@pytest.mark.parametrize(("tiles", "workers"), [(12, 5), (4, 4), (3, 7), (0, 2)])
def test_every_tile_is_dealt_to_one_worker(tiles: int, workers: int) -> None:
    dealt = [Place(place, workers).deal(tiles) for place in range(workers)]
    assert [number for own in dealt for number in own] == list(range(tiles))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(
    ("method", "helpers"),
    [("masked-gram capped", 1), ("blended", 2), ("single-shot", 1), ("sequential", 1), ("gatys", 4)],
)
def test_tiles_that_others_see(method: str, helpers: int, encoder: Encoder) -> None:
    """There are four: the last helper of four has none."""
    of = request(method.partition(" ")[0], METHODS[method])
    crew = Gathered(of, encoder, TILE, helpers)
    whole, tiled = builder_of(of, encoder, None), builder_of(of, encoder, TILE)
    for number, stage in enumerate(plan_of(of)):
        window = window_around(whole.mask(stage.scope)) if stage.windowed and stage.scope is not None else None
        found = tiled.build(stage.losses, capped=stage.capped, window=window, others=partial(crew.shares, number))
        if not isinstance(found, TiledObjective):
            continue
        image = noisy(whole.content if window is None else window.crop(whole.content))
        expected = whole.build(stage.losses, capped=stage.capped, window=window)
        assert_same(found(image), expected(image))
        assert_same(found(image + 0.1), expected(image + 0.1))


def test_a_transfer_with_helpers(encoder: Encoder) -> None:
    """The coarse stage is small enough for one tile, and nobody is asked for help."""
    of = example_scene.request("blended", {"steps": 4, "coarse_steps": 2}, size=SIZE, start=Start.PALETTE)
    crew = Gathered(of, encoder, TILE, 2)
    events = transfer(of, example_scene.inputs(of), encoder, cancelled=never, tile_pixels=TILE, crew=crew)
    found = [event for event in events if isinstance(event, StepDone)]
    for one, other in zip(found, run(of, encoder, TILE), strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-3)
