"""Losses between rendered depth and a depth prior.

Sums are taken in a fixed order, so that their bits do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from depth_priors import DepthPrior
from native import ordered_sum

FEWEST = 200
"""Pixels of weight above 0 below which a term says nothing and is left out."""
MIDAS_SHIFT = 200.0
"""Added to MiDaS's inverse depth before it is inverted (source document 003)."""
LEAST_SPREAD = 1e-8
"""Variance, as a share of the mean square, below which a map counts as constant."""


def pearson_loss(depth: Tensor, alpha: Tensor, prior: DepthPrior) -> Tensor | None:
    """One minus the weighted Pearson correlation of rendered depth and prior; in [0, 2].

    For an affine inverse depth M it is source document 003's min(1 - r(z, -M), 1 - r(z, 1 / (M + 200))); for
    one in the scene's units, or off by a factor only, 1 - r(z, 1 / M). Weights are confidence times alpha.

    Args:
        depth: [H, W], camera z; differentiable.
        alpha: [H, W] in [0, 1]; no gradient.
        prior: [H, W] of the same size, on the same device.

    Returns:
        A scalar, or None where too few pixels have a weight or one of the maps is constant there.
    """
    weight = prior.confidence * alpha.detach() * (prior.value > 0)
    if int((weight > 0).sum()) < FEWEST:
        return None
    if prior.kind == "inverse" and prior.frame == "affine":
        targets = [-prior.value, 1.0 / (prior.value + MIDAS_SHIFT)]
    else:
        targets = [prior.depth()]
    correlations = [correlation(depth, target, weight) for target in targets]
    losses = [1.0 - r for r in correlations if r is not None]  # 1 / (M + 200) is constant where M is small
    return torch.stack(losses).min() if losses else None


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


def total(x: Tensor) -> Tensor:
    """The sum of a tensor, on the CPU in a fixed order and in double; no gradient."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return torch.tensor(ordered_sum(x), dtype=torch.float32)
    return x.sum()
