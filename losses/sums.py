"""Sums over maps whose bits do not depend on the number of threads, forward and backward.

torch divides a sum to one number among its threads, and the gradient of a number that was spread over a
map is such a sum too. Losses built from these four and from operations on equal shapes are exact repeats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from native import ordered_sum


def total(x: Tensor) -> Tensor:
    """The sum of a tensor, on the CPU in a fixed order and in double; no gradient."""
    if x.device.type == "cpu" and x.dtype == torch.float32:
        return torch.tensor(ordered_sum(x.contiguous()), dtype=torch.float32)
    return x.sum()


def summed(x: Tensor) -> Tensor:
    """The sum of a tensor; differentiable."""
    return _Summed.apply(x)


def spread(number: Tensor, like: Tensor) -> Tensor:
    """A number at every place of a map; differentiable."""
    return _Spread.apply(number, like)


def mean(x: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of x, as a number; differentiable in x. The weights' sum must be above 0."""
    return summed(x * (weight / total(weight)))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return total(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].expand(ctx.shape)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, number: Tensor, like: Tensor) -> Tensor:
        return number.expand(like.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return total(grads[0]), None
