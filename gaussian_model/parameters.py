"""Names, shapes and stored form of the six parameter tensors, and the crossing to linear values.

Scales are stored as logarithms and opacities as logits. The four functions here are the only place
where that form is entered or left.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from gaussian_model.spherical_harmonics import degree_of

KEYS = ("means", "quats", "scales", "opacities", "sh0", "shN")
"""The parameters in their one order: means [N,3], quats [N,4] wxyz, scales [N,3] log, opacities [N]
logit, sh0 [N,1,3], shN [N,K-1,3]."""

_ROW_SHAPES: dict[str, tuple[int | None, ...]] = {
    "means": (3,),
    "quats": (4,),
    "scales": (3,),
    "opacities": (),
    "sh0": (1, 3),
    "shN": (None, 3),
}


def log_scales(scales: Tensor) -> Tensor:
    """Stored form of linear scales (world units); any shape. Zero becomes the smallest normal number."""
    return scales.clamp_min(torch.finfo(scales.dtype).tiny).log()


def linear_scales(stored: Tensor) -> Tensor:
    """Linear scales, world units, of stored ones; any shape, differentiable."""
    return stored.exp()


def logit_opacities(opacities: Tensor) -> Tensor:
    """Stored form of linear opacities in [0, 1]; any shape. Both ends are kept one epsilon inside."""
    return torch.logit(opacities, eps=torch.finfo(opacities.dtype).eps)


def linear_opacities(stored: Tensor) -> Tensor:
    """Linear opacities in (0, 1) of stored ones; any shape, differentiable."""
    return sigmoid(stored)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) with the same bits for any number of threads; any shape, differentiable once.

    torch's own on the CPU computes the last few elements of each thread's share by a scalar formula
    that rounds differently from its vector one, so some elements change with the number of threads
    (seen with 2.14 at 100,003 elements). Its exp does not.
    """
    return _Sigmoid.apply(x) if x.device.type == "cpu" else x.sigmoid()


class _Sigmoid(torch.autograd.Function):
    """Sigmoid out of operations whose vector and scalar forms agree."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        y = (1.0 + (-x).exp()).reciprocal()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * (y * (1.0 - y))


def check_parameters(params: Mapping[str, Tensor]) -> None:
    """Check keys and shapes of stored values.

    Raises:
        ValueError: names the key, the expected and the given shape.
    """
    if set(params) != set(KEYS):
        raise ValueError(f"parameters: expected the keys {', '.join(KEYS)}, got {', '.join(sorted(params))}")
    rows = params["means"].shape[0] if params["means"].ndim else 0
    for key in KEYS:
        got = tuple(params[key].shape)
        expected = (rows, *_ROW_SHAPES[key])
        fits = len(got) == len(expected) and all(
            e is None or e == g for e, g in zip(expected, got, strict=True)
        )
        if not fits:
            shown = ", ".join("K-1" if e is None else str(e) for e in expected)
            raise ValueError(f"{key}: expected [{shown}], got {list(got)}")
    if degree_of(1 + params["shN"].shape[1]) is None:
        raise ValueError(
            f"shN: expected 0, 3, 8, 15 or 24 coefficients (degree 0 to 4), got {params['shN'].shape[1]}"
        )
