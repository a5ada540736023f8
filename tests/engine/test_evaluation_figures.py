"""Each figure of an evaluation on synthetic pictures whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from intarsia_server.engine.encoder import Encoder, normalise
from intarsia_server.engine.evaluation.borders import REACH, BorderZone, border_zones
from intarsia_server.engine.evaluation.colours import colour_distance, colour_quantiles, oklab, palette_step
from intarsia_server.engine.evaluation.fidelity import content_distance, structure_similarity
from intarsia_server.engine.evaluation.margins import MARGIN_LAYERS, style_margins, unit_grams
from intarsia_server.engine.evaluation.seam import RING, seam, seam_distance
from intarsia_server.engine.evaluation.transition import (
    TRANSITION_LAYER,
    statistics,
    transition_curve,
    weighted_mean,
)
from torch import Tensor

HEIGHT, WIDTH = 96, 128
HALVES = np.repeat(np.array([[0] * (WIDTH // 2) + [1] * (WIDTH // 2)], np.int32), HEIGHT, axis=0)
STYLED = np.array([True, True])


def texture(seed: int, colour: tuple[int, int, int], grain: int) -> np.ndarray:
    """Noise of one grain and about one colour, [H, W, 3]: the same statistics everywhere."""
    noise = np.random.default_rng(seed).normal(0, 30, (HEIGHT // grain, WIDTH // grain, 1))
    coarse = noise.repeat(grain, axis=0).repeat(grain, axis=1)
    return np.clip(coarse + np.array(colour), 0, 255).astype(np.uint8)


A, B = texture(0, (180, 90, 60), 1), texture(1, (60, 110, 190), 4)
CUT = np.where(HALVES[..., None] == 0, A, B)


def fade(half_width: float) -> np.ndarray:
    """A linear cross-fade about the middle."""
    weight = np.clip((np.arange(WIDTH) - WIDTH / 2 + half_width) / (2 * half_width), 0, 1)[None, :, None]
    return (A * (1 - weight) + B * weight).astype(np.uint8)


def features(pixels: np.ndarray, encoder: Encoder, *layers: str) -> dict[str, Tensor]:
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    return dict(encoder(normalise(image), layers))


@pytest.fixture(scope="module")
def zone() -> BorderZone:
    (found,) = border_zones(HALVES, STYLED)
    return found


def curve_of(
    pixels: np.ndarray, zone: BorderZone, encoder: Encoder
) -> tuple[tuple[float, ...], tuple[float, ...], float | None]:
    whole = torch.ones(1, HEIGHT, WIDTH)
    first, second = (statistics(features(s, encoder, TRANSITION_LAYER)[TRANSITION_LAYER], whole) for s in (A, B))
    return transition_curve(features(pixels, encoder, TRANSITION_LAYER)[TRANSITION_LAYER], zone, first, second)


def test_a_cut_between_two_styles_jumps_from_0_to_1(zone: BorderZone, encoder: Encoder) -> None:
    offsets, curve, jump = curve_of(CUT, zone, encoder)
    assert offsets == tuple(range(-22, 24, 4))
    assert curve[:5] == pytest.approx([0] * 5, abs=0.15)
    assert curve[-5:] == pytest.approx([1] * 5, abs=0.15)
    assert jump == pytest.approx(1, abs=0.25)


def test_a_cross_fade_has_no_jump(zone: BorderZone, encoder: Encoder) -> None:
    _, curve, jump = curve_of(fade(24), zone, encoder)
    assert jump is not None
    assert jump < 0.25
    assert list(curve) == sorted(curve)
    _, _, steeper = curve_of(fade(6), zone, encoder)
    assert steeper is not None
    assert jump < steeper < 0.9


def test_one_style_on_both_sides_does_not_move(zone: BorderZone, encoder: Encoder) -> None:
    _, curve, jump = curve_of(A, zone, encoder)
    assert curve == pytest.approx([0] * len(curve), abs=0.15)
    assert jump == pytest.approx(0, abs=0.15)


def test_zones_lie_about_their_own_border() -> None:
    labels = HALVES.copy()
    labels[:, 100:] = 2
    zones = {(zone.first, zone.second): zone for zone in border_zones(labels, np.array([True] * 3))}
    assert set(zones) == {(0, 1), (1, 2)}
    near = zones[0, 1]
    assert near.length == HEIGHT
    row = np.full(WIDTH, np.nan)
    row[near.window[1]] = near.offset[40]
    assert row[63] == -0.5
    assert row[64] == 0.5
    assert row[64 - REACH] == -REACH + 0.5
    assert np.isnan(row[64 - REACH - 1])
    # Half of the way to the next border belongs to that one.
    assert row[80] == 16.5
    assert np.isnan(row[84:]).all()


def test_borders_of_kept_segments_have_no_zone() -> None:
    assert list(border_zones(HALVES, np.array([True, False]))) == []


def test_segments_that_meet_at_a_corner_alone_have_no_border() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[:4, 4:], labels[4:, :4], labels[4:, 4:] = 1, 2, 3
    pairs = [(zone.first, zone.second) for zone in border_zones(labels, np.array([True] * 4))]
    assert pairs == [(0, 1), (0, 2), (1, 3), (2, 3)]


def ramp() -> np.ndarray:
    row = np.arange(WIDTH) * 2 % 256
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)


def seam_value(pixels: np.ndarray, labels: np.ndarray = HALVES) -> float:
    found = seam(pixels, seam_distance(labels, STYLED))
    assert found is not None
    return found.value


@pytest.mark.parametrize("pixels", [ramp(), np.full((HEIGHT, WIDTH, 3), 77, np.uint8)], ids=["ramp", "flat"])
def test_an_even_picture_has_a_seam_of_1(pixels: np.ndarray) -> None:
    assert seam_value(pixels) == pytest.approx(1, abs=0.02)


def test_a_step_is_a_seam() -> None:
    stepped = ramp()
    stepped[:, WIDTH // 2 :] += 60
    profile = seam(stepped, seam_distance(HALVES, STYLED))
    assert profile is not None
    # Of the two columns at distance 0 one has the step: (2 + 62) / 2 = 32 against 2, times sqrt 3, each and 1 more.
    assert profile.value == pytest.approx((32 * 3**0.5 + 1) / (2 * 3**0.5 + 1), rel=0.02)
    assert profile.profile[0] == pytest.approx(profile.value)
    assert profile.distances == tuple(range(RING[1] + 1))


def test_a_smear_is_a_seam_too() -> None:
    grain = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    even = seam_value(grain)
    smeared = grain.copy()
    smeared[:, WIDTH // 2 - 4 : WIDTH // 2 + 4] = 128
    assert even < 1.1
    assert seam_value(smeared) > 5


def test_kept_segments_have_no_seam_between_them() -> None:
    stepped = ramp()
    stepped[:, WIDTH // 2 :] += 60
    assert seam(stepped, seam_distance(HALVES, np.array([False, False]))) is None
    assert seam(stepped, seam_distance(HALVES, np.array([False, True]))) is not None


def test_equal_colours_have_no_distance(zone: BorderZone) -> None:
    first, second = colour_quantiles(oklab(A)), colour_quantiles(oklab(B))
    assert colour_distance(first, first) == 0
    even = np.full((HEIGHT, WIDTH, 3), 99, np.uint8)
    assert palette_step(even, zone, first, second) == 0
    assert palette_step(CUT, zone, first, second) == pytest.approx(1, abs=0.1)
    assert palette_step(CUT, zone, first, first) is None


def test_the_distance_of_two_flat_colours() -> None:
    """In any direction v it is |v . (a - b)|, whose mean over the sphere is half the length."""
    black, white = (colour_quantiles(oklab(np.full((8, 8, 3), grey, np.uint8))) for grey in (0, 255))
    assert colour_distance(black, white) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((255, 255, 255), (1, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (0.62796, 0.22486, 0.12585))],
)
def test_oklab(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    """Against the values that its author publishes."""
    assert oklab(np.array([[rgb]], np.uint8))[0] == pytest.approx(lab, abs=1e-4)


def margins_of(pixels: np.ndarray, encoder: Encoder, styles: tuple[np.ndarray, ...] = (A, B)) -> list[float | None]:
    masks = torch.nn.functional.one_hot(torch.from_numpy(HALVES).long(), 2).permute(2, 0, 1).float()
    whole = torch.ones(1, HEIGHT, WIDTH)
    grams = [[g[0] for g, _ in unit_grams(features(s, encoder, *MARGIN_LAYERS), whole)] for s in styles]
    result = unit_grams(features(pixels, encoder, *MARGIN_LAYERS), masks)
    return [margin.margin for margin in style_margins(result, grams, [0, 1], masks.mean(dim=(1, 2)))]


def test_own_style_is_nearer(encoder: Encoder) -> None:
    right, wrong = margins_of(CUT, encoder), margins_of(CUT[:, ::-1], encoder)
    assert all(margin is not None and margin < 0.8 for margin in right)
    assert all(margin is not None and margin > 1.25 for margin in wrong)


def test_a_pale_style_is_as_good_as_a_strong_one(encoder: Encoder) -> None:
    """Pale grey has a tenth of the energy at these layers; neither style must win by that alone."""
    pale = (230 + (B.astype(float) - 128) / 8).clip(0, 255).astype(np.uint8)
    picture = np.where(HALVES[..., None] == 0, A, pale)
    right, wrong = margins_of(picture, encoder, (A, pale)), margins_of(picture[:, ::-1], encoder, (A, pale))
    assert all(margin is not None and margin < 0.8 for margin in right)
    assert all(margin is not None and margin > 1.25 for margin in wrong)


def test_content_and_structure(encoder: Encoder) -> None:
    rgb = [torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in (A, B, 255 - A, ramp())]
    a, b, negative, even = rgb
    assert structure_similarity(a, a) == pytest.approx(1, abs=1e-5)
    assert structure_similarity(a, b) < 0.3
    # Edges have no sign, and their place is what counts.
    assert structure_similarity(a, negative) == pytest.approx(1, abs=1e-3)
    assert structure_similarity(even, even) == pytest.approx(1, abs=1e-5)
    deep = [features(p, encoder, "relu3_3")["relu3_3"] for p in (A, B)]
    assert content_distance(deep[0], deep[0]) == 0
    assert content_distance(deep[1], deep[0]) > 0.5


def test_weighted_mean() -> None:
    assert weighted_mean([1.0, None, 4.0], [2, 5, 1]) == 2
    assert weighted_mean([None], [1]) is None
    assert weighted_mean([], []) is None
