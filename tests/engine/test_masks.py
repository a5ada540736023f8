"""Masks of segments at every layer, and the border map."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from intarsia_server.engine.encoder import Encoder, pool_masks
from intarsia_server.engine.masks import border_map, segment_masks
from intarsia_server.engine.vgg import LAYERS


def random_labels(height: int, width: int, count: int, seed: int) -> np.ndarray:
    """Blobs of about 4 pixels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(count, size=(height // 4 + 1, width // 4 + 1))
    return np.kron(coarse, np.ones((4, 4), dtype=int))[:height, :width].astype(np.int32)


def test_masks_are_a_partition_of_unity() -> None:
    labels = random_labels(23, 31, 5, seed=0)
    masks = segment_masks(labels, 6)
    assert masks.shape == (6, 23, 31)
    assert masks.dtype == torch.float32
    assert torch.equal(masks.sum(dim=0), torch.ones(23, 31))
    assert set(masks.unique().tolist()) == {0, 1}
    assert not masks[5].any()
    for segment in range(5):
        assert np.array_equal(masks[segment].numpy() == 1, labels == segment)


def test_masks_take_any_strides() -> None:
    labels = random_labels(12, 20, 3, seed=1)
    assert torch.equal(segment_masks(labels[::-1, ::2], 3), segment_masks(labels[::-1, ::2].copy(), 3))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("size", [(64, 48), (53, 75), (33, 47)])
def test_masks_reach_a_layer_by_area_averaging(layer: str, size: tuple[int, int], encoder: Encoder) -> None:
    masks = segment_masks(random_labels(*size, 4, seed=2), 4)
    pooled = pool_masks(masks, layer)
    expected = torch.stack([reference.at_layer(mask.double(), layer) for mask in masks])
    torch.testing.assert_close(pooled.double(), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(pooled.sum(dim=0), torch.ones(pooled.shape[1:]))
    with torch.no_grad():
        assert pooled.shape[1:] == encoder(torch.zeros(1, 3, *size), {layer})[layer].shape[2:]


@pytest.mark.parametrize("radius", [1.0, 1.5, 3.0, 7.3, 15.0, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_border_map_is_that_of_brute_force(radius: float, seed: int) -> None:
    labels = random_labels(19, 26, 3, seed)
    labels[:12, :17] = 0
    expected = reference.border_map(labels, radius)
    np.testing.assert_allclose(border_map(labels, radius).numpy(), expected, atol=1e-6)


def test_border_map_of_one_straight_border() -> None:
    labels = np.zeros((4, 10), dtype=np.int32)
    labels[:, 5:] = 1
    expected = [0, 0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25, 0]
    np.testing.assert_allclose(border_map(labels, 4.0).numpy(), [expected] * 4, atol=1e-6)


def test_border_map_far_from_any_border_is_zero() -> None:
    labels = np.zeros((20, 60), dtype=np.int32)
    labels[0, 0] = 1
    border = border_map(labels, 5.0)
    assert float(border[0, 0]) == 1
    assert not border[:, 8:].any()


def test_border_map_without_border_is_zero() -> None:
    assert not border_map(np.zeros((9, 7), dtype=np.int32), 3.0).any()
