"""What must come out of the operators, by dense sums in float64 on the CPU.

Beside each value stands its *size*: the same sum of absolute values. Rounding errors are in proportion to that, however
much of the sum cancels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's customary name
from torch import Tensor


class Value(NamedTuple):
    value: Tensor
    size: Tensor


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _shares(masks: Tensor) -> Tensor:
    """m_r(p) / mass_r [R, P], zeros for an empty segment."""
    flat = _double(masks).flatten(1)
    mass = flat.sum(dim=1, keepdim=True)
    return flat / torch.where(mass > 0, mass, torch.ones_like(mass))


def _rows(features: Tensor) -> Tensor:
    return _double(features).flatten(2)


def gram(features: Tensor, masks: Tensor) -> tuple[Value, Value]:
    """G_r = sum_p m_r f f^T / sum_p m_r and the mean, zeros where there is no weight."""
    x, share = _rows(features), _shares(masks)
    moments = []
    for y in (x, x.abs()):
        second = torch.stack([y * s @ y.transpose(1, 2) for s in share], dim=1)
        moments.append((second, torch.stack([y @ s for s in share], dim=1)))
    (second, first), (second_size, first_size) = moments
    return Value(second, second_size), Value(first, first_size)


def backward(features: Tensor, weights: Tensor, matrices: Value, mean_gradient: Tensor | None) -> Value:
    """sum_r weight_r(p) (M[n, r] f_p + e[n, r]) at each pixel; weights [R, P]."""
    x = _rows(features)
    e = None if mean_gradient is None else _double(mean_gradient)[..., None]
    terms = ((x, matrices.value, e), (x.abs(), matrices.size, None if e is None else e.abs()))
    results = []
    for y, matrix, mean in terms:
        result = torch.zeros_like(y)
        for segment, row in enumerate(weights):
            pixels = row.nonzero().squeeze(1)
            part = matrix[:, segment] @ y[:, :, pixels]
            result[:, :, pixels] += row[pixels] * (part if mean is None else part + mean[:, segment])
        results.append(result.view(features.shape))
    return Value(*results)


def gram_gradient(features: Tensor, masks: Tensor, grad: Tensor | None, grad_mean: Tensor | None) -> Value:
    """dL/df_p = sum_r m_r(p) / mass_r ((D_r + D_r^T) f_p + e_r), D = dL/dG and e = dL/dmean."""
    batch, channels = features.shape[:2]
    d = torch.zeros(batch, len(masks), channels, channels).double() if grad is None else _double(grad)
    both = Value(d + d.transpose(2, 3), d.abs() + d.abs().transpose(2, 3))
    return backward(features, _shares(masks), both, grad_mean)


def loss(features: Tensor, masks: Tensor, targets: Tensor, factors: Tensor, grad: Tensor) -> tuple[Value, Value, Value]:
    """factors_r |G_r - A_r|_F^2; the difference G - A; and the gradient for an upstream gradient [N, R]."""
    matrix, _ = gram(features, masks)
    a, f = _double(targets), _double(factors)
    d, size = difference = Value(matrix.value - a, matrix.size + a.abs())
    losses = Value(f * d.square().sum(dim=(2, 3)), f.abs() * (2 * d.abs() * size + d.square()).sum(dim=(2, 3)))
    scale = (4 * f * _double(grad))[:, :, None, None]
    return losses, difference, backward(features, _shares(masks), Value(scale * d, scale.abs() * size), None)


def tv(image: Tensor, weight: Tensor | None, *, product: bool) -> tuple[Value, Value]:
    """(sum b dy^2 + sum b dx^2) / (N C H W), b of a pair being the mean of its weights; and its gradient.

    With `product` the same of weight * image, without weights.
    """
    x = _double(image)
    b = torch.ones(x.shape[2:]).double() if weight is None else _double(weight)
    factor, pair = (b, torch.ones_like(b)) if product else (torch.ones_like(b), b)
    results = []
    # |a| + |b| is the difference of |a| and -|b|.
    for y, sign in ((x * factor, -1), ((x * factor).abs(), 1)):
        value, gradient = y.new_zeros(()), torch.zeros_like(y)
        for axis in (2, 3):
            count = y.shape[axis] - 1
            low, high = y.narrow(axis, 0, count), y.narrow(axis, 1, count)
            share = (pair.narrow(axis - 2, 0, count) + pair.narrow(axis - 2, 1, count)) / 2
            change = high + sign * low
            value = value + (share * change.square()).sum()
            gradient.narrow(axis, 1, count).add_(2 * share * change)
            gradient.narrow(axis, 0, count).add_(2 * share * change * sign)
        results.append((value / x.numel(), gradient * factor.abs() / x.numel()))
    (value, gradient), (size, gradient_size) = results
    if (
        product
    ):  # At a border a pixel may stand for its missing neighbour: what is left is the rounding of their products.
        own = (x * factor).square() / x.numel()
        size, gradient_size = size + own.sum(), gradient_size + 2 * own.sqrt() * factor / x.numel() ** 0.5
    return Value(value, size), Value(gradient, gradient_size)


def _convolution_input(x: Tensor, *, pool: bool, pad: bool) -> Tensor:
    x = F.avg_pool2d(x, 2) if pool else x
    return F.pad(x, (1, 1, 1, 1), mode="replicate") if pad else x


def convolution_input(features: Tensor, *, pool: bool, pad: bool) -> Value:
    """Pooled and padded by torch."""
    x = _double(features)
    return Value(*(_convolution_input(y, pool=pool, pad=pad) for y in (x, x.abs())))


def relu_backward(output: Tensor, gradient: Tensor, added: Tensor | None, *, pooled: bool, padded: bool) -> Value:
    """The gradient by the ReLU's input, by autograd through the ReLU, the pooling and the padding."""
    results = []
    for convert in (_double, lambda tensor: _double(tensor).abs()):
        x = _double(output).requires_grad_()
        through = x.relu()
        read, grads = [_convolution_input(through, pool=pooled, pad=padded)], [convert(gradient)]
        if added is not None:
            read, grads = [*read, through], [*grads, convert(added)]
        results += torch.autograd.grad(read, x, grads)
    return Value(*results)


def feature_loss(features: Tensor, target: Tensor, weight: Tensor | None, factor: float) -> tuple[Value, Value]:
    """The loss, factor mean(w (F - T)^2), and its gradient by F, by autograd."""
    x = _double(features).requires_grad_()
    loss = factor * ((1 if weight is None else _double(weight)) * (x - _double(target)).square()).mean()
    (gradient,) = torch.autograd.grad(loss, x)
    return Value(loss.detach(), loss.detach().abs()), Value(gradient, gradient.abs())
