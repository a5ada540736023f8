"""The encoder's way back: its gradient by the image, against autograd through the reference's network in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from intarsia_server.engine.convolution import FrozenConvolution
from intarsia_server.engine.encoder import LAYERS, Encoder, normalise
from intarsia_server.engine.weights import load_weights
from reference import USED_LAYERS, Vgg
from torch import Tensor

CPU = torch.device("cpu")
SIZES = [(32, 48), (37, 51), (16, 19)]
"""Height and width; odd ones lose a row or column to pooling at one layer or another."""


@pytest.fixture(scope="module")
def coarse() -> Encoder:
    """The encoder in bfloat16."""
    return Encoder(load_weights("embedded"), device=CPU, precision=torch.bfloat16)


@pytest.fixture(scope="module")
def fine() -> Encoder:
    """The encoder in float64."""
    return Encoder(load_weights("embedded"), device=CPU, precision=torch.float64)


@pytest.fixture(params=[False, True], ids=["replicated", "zeros"])
def zeros(request: pytest.FixtureRequest) -> bool:
    """Whether convolutions pad with zeros."""
    return bool(request.param)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(size: tuple[int, int]) -> Tensor:
    return normalise(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(4)))


def upstream(features: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """A random gradient by each layer, of about the same share in the image's."""
    return {
        layer: (random(*features[layer].shape, seed=LAYERS.index(layer)) / features[layer].float().norm()).contiguous(
            memory_format=torch.channels_last
        )
        for layer in layers
    }


def expected(vgg: Vgg, image: Tensor, gradients: Mapping[str, Tensor]) -> Tensor:
    """By autograd, float64."""
    x = image.double().requires_grad_()
    features = vgg(x, gradients)
    layers = list(gradients)
    (gradient,) = torch.autograd.grad(
        [features[layer] for layer in layers], x, [gradients[layer][0].double() for layer in layers]
    )
    return gradient


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    "layers",
    [("relu1_1",), ("relu1_2",), ("relu2_1",), ("relu3_4", "relu1_1"), ("relu4_1",), USED_LAYERS, LAYERS[:14]],
    ids="-".join,
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gradient_is_that_of_autograd(
    fine: Encoder,
    encoder: Encoder,
    vgg: Vgg,
    published_vgg: Vgg,
    layers: tuple[str, ...],
    size: tuple[int, int],
    zeros: bool,
) -> None:
    image = picture(size)
    # A ReLU whose input is about 0 may be open in float32 and shut in float64.
    for each, precision, bound in ((fine, torch.float64, 1e-5), (encoder, torch.float32, 0.02)):
        forward = (each.padding_with_zeros if zeros else each).run(image, layers)
        gradients = upstream(forward.features, layers)
        found = forward.backward({layer: gradient.to(precision) for layer, gradient in gradients.items()})
        assert found.shape == image.shape
        assert found.dtype == precision
        assert error(found, expected(published_vgg if zeros else vgg, image, gradients)) < bound


def test_of_fewer_layers_than_ran(fine: Encoder, vgg: Vgg) -> None:
    image = picture((37, 51))
    forward = fine.run(image, USED_LAYERS)
    for layer in ("relu1_1", "relu3_1"):
        gradients = upstream(forward.features, (layer,))
        found = forward.backward({layer: gradients[layer].double()})
        assert error(found, expected(vgg, image, gradients)) < 1e-5


def test_again_gives_the_same(encoder: Encoder) -> None:
    forward = encoder.run(picture((37, 51)), USED_LAYERS)
    kept = [output.clone() for output in forward.outputs]
    gradients = upstream(forward.features, USED_LAYERS)
    given = {layer: gradient.clone() for layer, gradient in gradients.items()}
    first, second = forward.backward(gradients), forward.backward(gradients)
    assert torch.equal(first, second)
    assert all(torch.equal(now, before) for now, before in zip(forward.outputs, kept, strict=True))
    assert all(torch.equal(gradients[layer], given[layer]) for layer in given)


def test_is_linear_in_the_gradients(encoder: Encoder) -> None:
    """What several losses send back together is what they send back one by one."""
    forward = encoder.run(picture((37, 51)), USED_LAYERS)
    gradients = upstream(forward.features, USED_LAYERS)
    parts = sum(forward.backward({layer: gradient}) for layer, gradient in gradients.items())
    torch.testing.assert_close(forward.backward(gradients), parts, rtol=1e-3, atol=1e-6)


def test_of_no_layer_is_zero(encoder: Encoder) -> None:
    forward = encoder.run(picture((16, 19)), USED_LAYERS)
    gradient = forward.backward({})
    assert gradient.shape == (1, 3, 16, 19)
    assert gradient.dtype == torch.float32
    assert not gradient.any()


def test_bfloat16_is_close(encoder: Encoder, coarse: Encoder, zeros: bool) -> None:
    image = picture((64, 80))
    exact, rough = ((each.padding_with_zeros if zeros else each).run(image, USED_LAYERS) for each in (encoder, coarse))
    gradients = upstream(exact.features, USED_LAYERS)
    found = rough.backward({layer: gradient.bfloat16() for layer, gradient in gradients.items()})
    assert found.dtype == torch.float32
    # Of white noise, whose gradients cancel more than a loss's: as far off as autograd in bfloat16.
    assert error(found, exact.backward(gradients).double()) < 0.1


def test_run_finds_the_features_of_a_call(encoder: Encoder, coarse: Encoder) -> None:
    image = picture((37, 51))
    for each in (encoder, coarse):
        features, called = each.run(image, USED_LAYERS).features, each(image, USED_LAYERS)
        assert all(torch.equal(features[layer], called[layer]) for layer in USED_LAYERS)


def test_makes_no_graph(encoder: Encoder) -> None:
    """Nothing that asks for a gradient comes out, nor is anything but feature maps kept."""
    forward = encoder.run(picture((32, 48)), USED_LAYERS)
    gradient = forward.backward(upstream(forward.features, USED_LAYERS))
    for tensor in (*forward.outputs, gradient):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("channels", [(3, 8), (16, 24)], ids=str)
def test_frozen_convolution(precision: torch.dtype, channels: tuple[int, int]) -> None:
    """Both ways, for both paddings, against torch in float64."""
    inward, outward = channels
    weight, bias = random(outward, inward, 3, 3, seed=0) / (3 * inward**0.5), random(outward, seed=1)
    convolution = FrozenConvolution(weight, bias, device=CPU, precision=precision)
    rounding = {torch.float32: 1e-5, torch.bfloat16: 0.01, torch.float64: 1e-12}[precision]
    for replicated in (False, True):
        x = random(2, inward, 9, 13, seed=2).to(precision).contiguous(memory_format=torch.channels_last)
        exact = x.double().clone().requires_grad_()
        before = F.conv2d(
            exact, weight.to(precision).double(), bias.to(precision).double(), padding=0 if replicated else 1
        )
        found = convolution.forward(x, replicated=replicated)
        assert found.dtype == precision
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert error(found, before.detach().relu()) < rounding

        gradient = random(*before.shape, seed=3).to(precision).contiguous(memory_format=torch.channels_last)
        (wanted,) = torch.autograd.grad(before, exact, gradient.double())
        back = convolution.backward(gradient, replicated=replicated)
        assert back.shape == x.shape
        assert error(back, wanted) < rounding
