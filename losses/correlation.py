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
        a, mean_square_a = _centred(x, share)
        b, mean_square_b = _centred(y, share)
        var_a, var_b = total(share * a * a), total(share * b * b)
        if not bool((var_a > LEAST_SPREAD * mean_square_a) & (var_b > LEAST_SPREAD * mean_square_b)):
            return None
    return _Correlation.apply(x, y, share, a, b, var_a, var_b)


class _Correlation(torch.autograd.Function):
    """From centred maps: r = sum(s a b) / sqrt(var_a var_b), dr/dx = s (b / sqrt(var_a var_b) - r a / var_a).

    Written out, because autograd would sum the gradients of the means in an order of torch's own.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, *parts: Tensor) -> Tensor:
        share, a, b, var_a, var_b = parts
        r = total(share * a * b) / (var_a * var_b).sqrt()
        ctx.save_for_backward(*parts, r)
        return r

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        share, a, b, var_a, var_b, r = ctx.saved_tensors
        both = (var_a * var_b).sqrt()
        dx = grads[0] * share * (b / both - r * a / var_a) if ctx.needs_input_grad[0] else None
        dy = grads[0] * share * (a / both - r * b / var_b) if ctx.needs_input_grad[1] else None
        return dx, dy, None, None, None, None, None


def _centred(x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """A map minus its weighted mean, 0 where the weight is 0; and its weighted mean square."""
    x = torch.where(share > 0, x, 0.0)  # what has no weight may be anything, NaN too
    return torch.where(share > 0, x - total(share * x), 0.0), total(share * x * x)
