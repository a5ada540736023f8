"""The port of the published procedure does what the publication says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.masks import border_map
from intarsia_server.engine.vgg import CONVOLUTIONS
from intarsia_server.engine.weights import EMBEDDED, ConvolutionWeights, load_weights
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook

from bench.published import (
    BORDER_SMOOTHING,
    SINGLE_SHOT,
    Objective,
    Published,
    Schedule,
    Steps,
    prefixes,
)

HEIGHT, WIDTH = 64, 96


@pytest.fixture(scope="module")
def weights() -> ConvolutionWeights:
    return load_weights(EMBEDDED)


@pytest.fixture
def inputs() -> Inputs:
    """Noise about a colour for the content and each style; three upright bands for segments."""
    rng = np.random.default_rng(0)

    def picture(*colour: int) -> np.ndarray:
        noise = rng.integers(-50, 51, (HEIGHT, WIDTH, 3))
        return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)

    styles = (picture(200, 60, 60), picture(60, 200, 60), picture(60, 60, 200))
    return Inputs(
        content=picture(128, 128, 128),
        labels=np.tile(np.arange(WIDTH, dtype=np.int32) * 3 // WIDTH, (HEIGHT, 1)),
        masks=None,
        styled=(0, 1, 2),
        styles=styles,
        covers=styles,
        start=None,
        warnings=(),
    )


def exact_features(weights: ConvolutionWeights, image: Tensor) -> dict[str, Tensor]:
    """Every ReLU of VGG-19 in one float64 pass, as [C, P]."""
    x = image.double()
    found = {}
    for (block, conv), (weight, bias) in zip(CONVOLUTIONS, weights, strict=True):
        if conv == 1 and block > 1:
            x = functional.avg_pool2d(x, 2)
        x = functional.conv2d(x, weight.double(), bias.double(), padding=1).clamp_min(0)
        found[f"relu{block}_{conv}"] = x[0].flatten(1)
    return found


def exact_tv(image: np.ndarray) -> float:
    return float((np.diff(image, axis=2) ** 2).sum() + (np.diff(image, axis=3) ** 2).sum()) / image.size


def test_attempt_3_has_the_papers_objective(weights: ConvolutionWeights) -> None:
    content, style, image = torch.randn(3, 1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    x, c, s = (exact_features(weights, picture) for picture in (image, content, style))
    expected = 1e6 * ((x["relu4_2"] - c["relu4_2"]) ** 2).mean()
    for number, factor in enumerate((0.75, 0.5, 0.2, 0.2, 0.2), 1):
        f, t = x[f"relu{number}_1"], s[f"relu{number}_1"]
        channels, pixels = f.shape
        expected += 1e3 * factor * ((f @ f.T - t @ t.T) ** 2).mean() / (channels * pixels)
    expected += 1e3 * 20 * ((x["relu1_1"] - s["relu1_1"]) ** 2).mean()
    tv = 1e3 * exact_tv(image.double().numpy())

    objective = Objective(prefixes(weights), SINGLE_SHOT, content=content, style=style)

    assert float(objective(image)) == pytest.approx(float(expected) + tv, rel=1e-4)


def test_border_smoothing_is_the_total_variation_of_the_product(weights: ConvolutionWeights, inputs: Inputs) -> None:
    image = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    border = border_map(inputs.labels, 15)

    objective = Objective(prefixes(weights), BORDER_SMOOTHING, content=image, style=image, border=border)

    assert float(objective(image)) == pytest.approx(100 * exact_tv((image * border).double().numpy()), rel=1e-4)


def test_a_step_makes_six_prefix_passes(weights: ConvolutionWeights, inputs: Inputs) -> None:
    steps = Published(weights, inputs).attempt_3()
    next(steps)
    calls: Counter[type[nn.Module]] = Counter()
    with register_module_forward_hook(lambda module, _args, _output: calls.update([type(module)])):
        next(steps)

    assert calls[nn.Sequential] == 6
    assert calls[nn.Conv2d] == 1 + 3 + 5 + 9 + 13 + 10


def test_the_surrogate_shows_each_style_in_its_segment(weights: ConvolutionWeights, inputs: Inputs) -> None:
    surrogate = Published(weights, inputs).surrogate()

    # Red, green and blue styles: in band r, channel r stands out.
    bands = surrogate[0].reshape(3, HEIGHT, 3, WIDTH // 3).mean(dim=(1, 3))
    assert bands.argmax(dim=0).tolist() == [0, 1, 2]


def stages(steps: Steps) -> tuple[dict[str, list[float]], Tensor]:
    """Each stage's objective step by step, and the result."""
    totals: dict[str, list[float]] = {}
    while True:
        try:
            done = next(steps)
        except StopIteration as stop:
            return totals, stop.value
        totals.setdefault(done.stage, []).append(done.total)
        assert done.number == len(totals[done.stage])


@pytest.mark.parametrize(
    ("attempt", "schedule", "names"),
    [
        (1, Schedule(vanilla=2, segment=10, smoothing=10), ["vanilla", "segment 1", "segment 2", "smoothing"]),
        (
            2,
            Schedule(vanilla=10, segment=2, smoothing=10, border=10),
            ["vanilla", "segment 1", "segment 2", "smoothing", "border smoothing"],
        ),
        (3, Schedule(single_shot=10), ["single shot"]),
    ],
)
def test_every_stage_goes_down(
    weights: ConvolutionWeights, inputs: Inputs, attempt: int, schedule: Schedule, names: list[str]
) -> None:
    published = Published(weights, inputs, schedule=schedule)
    steps = {1: published.attempt_1, 2: published.attempt_2, 3: published.attempt_3}[attempt]()

    totals, image = stages(steps)

    assert list(totals) == names
    assert all(values[-1] < values[0] for values in totals.values())
    assert image.shape == (1, 3, HEIGHT, WIDTH)
    assert image.isfinite().all()
