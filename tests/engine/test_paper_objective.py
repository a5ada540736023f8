"""The engine's objectives, value and gradient, against plain float64 ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import example_scene
import pytest
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.methods import stages
from intarsia_server.engine.objective import ObjectiveBuilder
from intarsia_server.engine.request import TransferRequest
from intarsia_server.engine.transfer import encoder_for
from reference import PUBLISHED, Recipe, Reference, Scene, Vgg, recipes
from torch import Tensor

TOLERANCE = 1e-4
METHODS = tuple(PUBLISHED)
NOISE = math.inf
SIZE = (64, 48)
KEEP: Mapping[str, Any] = {"style": None}
Segments = tuple[Mapping[str, Any], ...]


class Pair:
    """The engine's and the reference's view of one request; both networks pad as its objective asks."""

    def __init__(self, request: TransferRequest, encoder: Encoder, vgg: Vgg) -> None:
        encoder = encoder_for(request, encoder)
        inputs = example_scene.inputs(request)
        styled = tuple(index for index, segment in enumerate(request.segments) if segment.style is not None)
        height, width = inputs.labels.shape
        method = request.parameters.method
        knobs = PUBLISHED[method] if request.paper else request.parameters
        self.plan = stages(request.parameters, styled, paper=request.paper, size=(width, height))
        self.recipes = recipes(method, knobs, styled, paper=request.paper, longer_side=max(width, height))
        self.builder = ObjectiveBuilder(encoder, inputs, request.segments, paper=request.paper, cancelled=lambda: False)
        scene = Scene(
            content=inputs.content,
            labels=inputs.labels,
            styles=inputs.styles,
            covers=inputs.covers,
            style_weights=[segment.style_weight for segment in request.segments],
            content_weights=[segment.content_weight for segment in request.segments],
        )
        self.reference = Reference(vgg, scene, paper=request.paper)

    def image(self, distance: float) -> Tensor:
        """Noise (infinitely far), or the content with noise on it; kept segments as they are in the content."""
        content = self.reference.content.float()
        noise = torch.randn(content.shape, generator=torch.Generator().manual_seed(5))
        changed = noise if distance == NOISE else content + distance * noise
        return torch.where(self.reference.free > 0, changed, content)

    def compare(self, *distances: float) -> None:
        """Every stage at every image: each loss, their sum, and the gradient."""
        assert [stage.name for stage in self.plan] == [recipe.name for recipe in self.recipes]
        assert [stage.steps for stage in self.plan] == [recipe.steps for recipe in self.recipes]
        for distance in distances:
            image = self.image(distance)
            at = self.reference.at(image)
            for stage, recipe in zip(self.plan, self.recipes, strict=True):
                found = self.builder.build(stage.losses, capped=stage.capped)(image)
                total, gradient, losses = found.total, found.gradient, found.losses
                terms, expected_gradient = self.reference.evaluate(recipe, at, capped=stage.capped)
                where = f"{stage.name}, distance {distance}"
                assert {(name, segment) for name, segment, _ in losses} == terms.keys(), where
                for name, segment, value in losses:
                    assert value == pytest.approx(float(terms[name, segment]), rel=TOLERANCE), f"{where}: {name}"
                assert total == pytest.approx(float(sum(terms.values())), rel=TOLERANCE), where
                error = (gradient - expected_gradient).norm() / expected_gradient.norm()
                assert error < TOLERANCE, f"{where}: gradient"


@pytest.fixture(name="networks")
def _networks(vgg: Vgg, published_vgg: Vgg) -> dict[bool, Vgg]:
    """The reference's network with and without `--paper`."""
    return {False: vgg, True: published_vgg}


@pytest.mark.parametrize("method", METHODS)
def test_paper_objective_of_every_stage(method: str, encoder: Encoder, published_vgg: Vgg) -> None:
    Pair(example_scene.request(method, paper=True, size=SIZE), encoder, published_vgg).compare(NOISE, 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_default_objective_of_every_stage(method: str, encoder: Encoder, vgg: Vgg) -> None:
    Pair(example_scene.request(method, size=SIZE), encoder, vgg).compare(NOISE, 0.3)


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("method", ["masked-gram", "single-shot"])
def test_sides_that_no_pooling_divides(method: str, paper: bool, encoder: Encoder, networks: dict[bool, Vgg]) -> None:
    Pair(example_scene.request(method, paper=paper, size=(75, 53)), encoder, networks[paper]).compare(0.3)


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("method", ["masked-gram", "sequential", "single-shot"])
def test_factors_of_segments(method: str, paper: bool, encoder: Encoder, networks: dict[bool, Vgg]) -> None:
    segments: Segments = ({"style_weight": 0.25}, {"style_weight": 4.0, "content_weight": 0.0}, {"content_weight": 3.0})
    Pair(example_scene.request(method, paper=paper, size=SIZE, segments=segments), encoder, networks[paper]).compare(
        0.3
    )


def test_style_scale_changes_the_targets(encoder: Encoder, vgg: Vgg) -> None:
    segments: Segments = ({"style_scale": 2.0}, {"style_scale": 0.8}, {})
    Pair(example_scene.request("masked-gram", size=SIZE, segments=segments), encoder, vgg).compare(0.3)


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_kept_segment(method: str, paper: bool, encoder: Encoder, networks: dict[bool, Vgg]) -> None:
    Pair(
        example_scene.request(method, paper=paper, size=SIZE, segments=({}, KEEP, {})), encoder, networks[paper]
    ).compare(0.3)


@pytest.mark.parametrize("paper", [True, False])
def test_capped_gradients(paper: bool, encoder: Encoder, networks: dict[bool, Vgg]) -> None:
    request = example_scene.request("masked-gram", {"capped_gradients": True}, size=SIZE, paper=paper)
    Pair(request, encoder, networks[paper]).compare(0.3)


def test_a_capped_style_pulls_at_its_own_segment_only(encoder: Encoder, vgg: Vgg) -> None:
    """Turning one segment's style up changes the gradient there and nowhere else; content's gradient is everywhere."""

    def gradient(factor: float, content_weight: float) -> Tensor:
        segments = ({}, {"style_weight": factor}, {})
        knobs = {"capped_gradients": True, "content_weight": content_weight}
        pair = Pair(example_scene.request("masked-gram", knobs, size=SIZE, segments=segments), encoder, vgg)
        (stage,) = pair.plan
        return pair.builder.build(stage.losses, capped=stage.capped)(pair.image(0.3)).gradient

    plain = gradient(1.0, 0.15)
    own = torch.from_numpy(example_scene.labels(*SIZE) == 1)
    by_style = (gradient(50.0, 0.15) - plain).abs().amax(dim=(0, 1))
    assert float(by_style[own].max()) > 0
    assert float(by_style[~own].max()) < 1e-6 * float(by_style[own].max())
    by_content = (gradient(1.0, 15.0) - plain).abs().amax(dim=(0, 1))
    assert float(by_content[own].min()) > 0
    assert float(by_content[~own].min()) > 0


def test_without_caps_a_style_pulls_beyond_its_segment(encoder: Encoder, vgg: Vgg) -> None:
    pair = Pair(
        example_scene.request("masked-gram", {"content_weight": 0.0, "tv_weight": 0.0}, size=SIZE), encoder, vgg
    )
    image = pair.image(0.3)
    (stage,) = pair.plan
    free, capped = (pair.builder.build(stage.losses, capped=capped)(image) for capped in (False, True))
    assert free.total == capped.total
    assert float((free.gradient - capped.gradient).norm()) > 1e-3 * float(free.gradient.norm())


def test_the_publications_knobs(encoder: Encoder) -> None:
    for method, published in PUBLISHED.items():
        knobs = example_scene.resolved(method, paper=True)
        assert vars(published) == vars(knobs), method


def test_recipes_leave_out_nothing(vgg: Vgg, encoder: Encoder) -> None:
    """The reference itself: its sum has a part for each weight that is not 0."""
    scene = example_scene.inputs(example_scene.request("gatys", paper=True, size=SIZE))
    reference = Reference(
        vgg,
        Scene(content=scene.content, labels=scene.labels, styles=scene.styles, covers=scene.covers),
        paper=True,
    )
    everything = Recipe(
        name="all", steps=1, content=1, style=1, own=(1,), whole=0, surrogate_style=1, surrogate=1, tv=1, border_tv=1,
        border_radius=3,
    )  # fmt: skip
    noise = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    terms, _ = reference.evaluate(everything, reference.at(noise))
    assert len(terms) == 7
    assert all(float(value) > 0 for value in terms.values())
