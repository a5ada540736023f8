"""Masked total variation and its gradient, against float64."""

from __future__ import annotations

import torch
from intarsia_server import ops
from ops_cases import Shape, accumulator, features, random, soft_masks
from ops_checks import check_tv

IMAGES: tuple[Shape, ...] = (
    (1, 3, 5, 6),
    (2, 3, 4, 7),
    (1, 1, 1, 6),
    (1, 2, 6, 1),
    (1, 3, 33, 35),
    (1, 3, 64, 96),
    (1, 4, 2, 2),
    (3, 2, 40, 17),
)


def test_every_layout_and_shape(device: torch.device, dtype: torch.dtype, layout: str, shape: Shape) -> None:
    for size in (shape, *IMAGES):
        image, weight = features(size, dtype, layout, device=device), soft_masks(1, *size[2:])[0]
        check_tv(image, None, product=False)
        check_tv(image, weight, product=False)
        check_tv(image, weight, product=True)


def test_gradcheck_in_float64(layout: str) -> None:
    for shape in ((1, 3, 5, 6), (2, 2, 1, 6), (1, 2, 6, 1)):
        image = features(shape, torch.float64, layout, device=torch.device("cpu"))
        weight = soft_masks(1, *shape[2:])[0]
        assert torch.autograd.gradcheck(ops.masked_tv, image)
        for product in (False, True):
            assert torch.autograd.gradcheck(lambda x, w=weight, p=product: ops.masked_tv(x, w, product=p), image)


def test_is_the_sum_over_pairs() -> None:
    """By counting, and so without the slices that the other tests trust."""
    image, weight = random(2, 3, 4, 5), soft_masks(1, 4, 5)[0]
    total = 0.0
    for y in range(4):
        for x in range(5):
            for down, right in ((1, 0), (0, 1)):
                if y + down < 4 and x + right < 5:
                    change = image[:, :, y + down, x + right] - image[:, :, y, x]
                    total += float((weight[y + down, x + right] + weight[y, x]) / 2 * change.square().sum())
    torch.testing.assert_close(float(ops.masked_tv(image, weight)), total / image.numel(), rtol=1e-12, atol=0)


def test_only_the_product_pulls_towards_grey(device: torch.device, dtype: torch.dtype) -> None:
    """A flat picture has no variation; the product with a falling map has one."""
    flat = torch.full((1, 3, 6, 7), 2.0, dtype=dtype, device=device)
    border = soft_masks(1, 6, 7)[0].to(device, accumulator(dtype))
    assert float(ops.masked_tv(flat, border)) == 0
    assert float(ops.masked_tv(flat, border, product=True)) > 0


def test_weight_of_ones_is_none(device: torch.device, dtype: torch.dtype) -> None:
    image = features((1, 3, 20, 30), dtype, device=device)
    ones = torch.ones(20, 30, dtype=accumulator(dtype), device=device)
    assert torch.equal(ops.masked_tv(image, ones), ops.masked_tv(image))
    assert torch.equal(ops.masked_tv(image, ones, product=True), ops.masked_tv(image))


def test_weight_of_any_strides(device: torch.device, dtype: torch.dtype) -> None:
    image = features((1, 3, 20, 30), dtype, device=device)
    weight = soft_masks(1, 20, 30)[0].to(device, accumulator(dtype))
    assert torch.equal(ops.masked_tv(image, weight.T.contiguous().T), ops.masked_tv(image, weight))


def test_large_image_keeps_its_accuracy(device: torch.device, dtype: torch.dtype) -> None:
    """A million terms, all of one sign: a single float32 sum would be off by more than is allowed."""
    check_tv(features((1, 3, 512, 700), dtype, device=device), soft_masks(1, 512, 700)[0], product=False)


def test_empty_image(device: torch.device, dtype: torch.dtype) -> None:
    for shape in ((0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)):
        image = features(shape, dtype, device=device)
        loss = ops.masked_tv(image)
        (gradient,) = torch.autograd.grad(loss, image)
        assert float(loss.detach()) == 0
        assert gradient.shape == shape
