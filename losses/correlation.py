"""Weighted Pearson correlation of two maps, with its gradient written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.sums import total

LEAST_SPREAD = 1e-8
"""Variance, as a share of the mean square, below which a map counts as constant."""


def correlation(x: Tensor, y: Tensor, weight: Tensor) -> Tensor | None:
    """The weighted Pearson correlation r of two maps [H, W]; None where one of them is constant.

    Args:
        x: differentiable.
        y: likewise.
        weight: [H, W] >= 0, somewhere > 0; no gradient.
    """
    with torch.no_grad():
        share = weight / total(weight)
        size_x, size_y = _size(x, share), _size(y, share)
        if not (0.0 < size_x < torch.inf and 0.0 < size_y < torch.inf):
            return None
        a, mean_square_a = _centred(x / size_x, share)
        b, mean_square_b = _centred(y / size_y, share)
        var_a, var_b = total(share * a * a), total(share * b * b)
        if not bool((var_a > LEAST_SPREAD * mean_square_a) & (var_b > LEAST_SPREAD * mean_square_b)):
            return None
    return _Correlation.apply(x, y, (size_x, size_y), share, a, b, var_a, var_b)


class _Correlation(torch.autograd.Function):
    """From centred maps: r = sum(s a b) / sqrt(var_a var_b), dr/dx = s (b / sqrt(var_a var_b) - r a / var_a).

    The maps come divided by their sizes, so that squares of very small and very large depths are numbers.
    Written out, because autograd would sum the gradients of the means in an order of torch's own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, sizes: tuple[float, float], *parts: Tensor) -> Tensor:
        share, a, b, var_a, var_b = parts
        r = total(share * a * b) / (var_a * var_b).sqrt()
        ctx.save_for_backward(*parts, r)
        ctx.sizes = sizes
        return r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        share, a, b, var_a, var_b, r = ctx.saved_tensors
        both = (var_a * var_b).sqrt()
        size_x, size_y = ctx.sizes
        dx = grads[0] / size_x * share * (b / both - r * a / var_a) if ctx.needs_input_grad[0] else None
        dy = grads[0] / size_y * share * (a / both - r * b / var_b) if ctx.needs_input_grad[1] else None
        return dx, dy, None, None, None, None, None, None


def _size(x: Tensor, share: Tensor) -> float:
    """The largest magnitude where there is a weight; NaN where something there is none."""
    return float(torch.where(share > 0, x, 0.0).abs().amax())


def _centred(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """A map minus its weighted mean, 0 where the weight is 0; and its weighted mean square."""
    x = torch.where(share > 0, x, 0.0)  # what has no weight may be anything, NaN too
    return torch.where(share > 0, x - total(share * x), 0.0), total(share * x * x)
