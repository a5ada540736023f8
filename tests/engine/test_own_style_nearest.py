"""What a user would see: every segment wears its own style, and the methods differ."""

from __future__ import annotations

from itertools import combinations

import example_scene
import numpy as np
import pytest
import reference
import torch
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.request import Start
from intarsia_server.engine.transfer import transfer
from reference import Vgg
from torch import Tensor

SIZE = (128, 86)
UNUSED_LAYERS = ("relu2_2", "relu3_3", "relu4_3")
"""No objective compares Gram matrices here."""

MULTI_STYLE = ("masked-gram", "sequential", "sequential-smooth", "single-shot")


@pytest.fixture(scope="module")
def results(encoder: Encoder) -> dict[str, np.ndarray]:
    """The example with default parameters, by method."""

    def run(method: str) -> np.ndarray:
        request = example_scene.request(method, size=SIZE, start=Start.PALETTE)
        generator = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
        while True:
            try:
                next(generator)
            except StopIteration as stop:
                return np.asarray(stop.value)

    return {method: run(method) for method in MULTI_STYLE}


def mean_grams(vgg: Vgg, pixels: np.ndarray, mask: np.ndarray) -> dict[str, Tensor]:
    """Mean Gram matrix of the pixels under a hard mask, by layer."""
    with torch.no_grad():
        features = vgg(reference.normalised(pixels), UNUSED_LAYERS)
    grams = {}
    for layer, feature in features.items():
        hard = (reference.at_layer(torch.from_numpy(mask.astype(np.float64)), layer) > 0.5).double()
        grams[layer] = reference.weighted_gram(feature, hard) / hard.sum()
    return grams


@pytest.fixture(scope="module")
def style_grams(vgg: Vgg) -> list[dict[str, Tensor]]:
    pictures = example_scene.inputs(example_scene.request("masked-gram", size=SIZE)).styles
    return [mean_grams(vgg, style, np.ones(style.shape[:2])) for style in pictures if style is not None]


def distance(gram: dict[str, Tensor], style: dict[str, Tensor]) -> float:
    """Sum over layers of |G - A| / |A|."""
    return sum(float((gram[layer] - style[layer]).norm() / style[layer].norm()) for layer in UNUSED_LAYERS)


def pattern_distance(gram: dict[str, Tensor], style: dict[str, Tensor]) -> float:
    """Sum over layers of |G / |G| - A / |A||: which style it is, whatever the contrast it is painted with.

    To compare different styles, energies must not count: relative to |A|, a style of low energy would lie far from
    everything.
    """
    return sum(
        float((gram[layer] / gram[layer].norm() - style[layer] / style[layer].norm()).norm()) for layer in UNUSED_LAYERS
    )


@pytest.mark.parametrize("segment", range(3))
@pytest.mark.parametrize("method", MULTI_STYLE)
def test_own_style_is_nearest(
    method: str, segment: int, results: dict[str, np.ndarray], style_grams: list[dict[str, Tensor]], vgg: Vgg
) -> None:
    gram = mean_grams(vgg, results[method], example_scene.labels(*SIZE) == segment)
    distances = [pattern_distance(gram, style) for style in style_grams]
    assert int(np.argmin(distances)) == segment, distances


@pytest.mark.parametrize("method", MULTI_STYLE)
def test_own_style_is_nearer_than_in_the_photo(
    method: str, results: dict[str, np.ndarray], style_grams: list[dict[str, Tensor]], vgg: Vgg
) -> None:
    """A dull photo may lie nearest to a style by chance; the transfer must have brought it nearer."""
    for segment, style in enumerate(style_grams):
        mask = example_scene.labels(*SIZE) == segment
        before, after = (mean_grams(vgg, picture, mask) for picture in (example_scene.content(*SIZE), results[method]))
        assert distance(after, style) < 0.8 * distance(before, style), segment


@pytest.mark.parametrize(("one", "other"), list(combinations(MULTI_STYLE, 2)))
def test_methods_differ(one: str, other: str, results: dict[str, np.ndarray]) -> None:
    assert np.abs(results[one].astype(int) - results[other]).mean() > 4
