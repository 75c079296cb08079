"""L1 and SSIM between two images, with pixel weights.

    L1_c   = sum(c |I - G|) / (3 sum(c))        SSIM_c = sum(c ssim_map) / (3 sum(c))

The denominators count channels, so that c = 1 everywhere is the plain mean. sum(c) = 0 gives L1 0 and
SSIM 1 (no evidence, no loss). SSIM: Wang et al. 2004 with the 3DGS family's window (11x11 Gaussian,
sigma 1.5, zero padding, per channel). On the CPU both, and their gradient, come from one C++ kernel
(native/src/image_loss.cpp) whose bits do not depend on the number of threads; elsewhere from torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from native import call, empty

WINDOW_SIZE = 11  # pixels (Wang et al. 2004)
WINDOW_SIGMA = 1.5  # pixels
C1 = 0.01**2  # stabilisers for images in [0, 1]
C2 = 0.03**2


def l1_and_ssim(image: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Weighted L1 and SSIM similarity of two images.

    Args:
        image: [H, W, 3] in [0, 1] or beyond; differentiable.
        target: [H, W, 3]; no gradient.
        weight: [H, W] >= 0, or None for 1 everywhere; no gradient. The same anywhere is exactly as good as
            None; what is no number, infinite or below 0 counts 0.

    Returns:
        Two scalars: L1 >= 0 and SSIM in [-1, 1] (1 = equal).

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(image, target, weight)
    weight = None if weight is None else _usual(weight)
    if image.device.type == "cpu" and image.dtype == torch.float32:
        return _NativeLoss.apply(image, target, weight)
    weights = image.new_ones(image.shape[:2]) if weight is None else weight.to(image)
    total = 3 * weights.sum()
    if not bool(total > 0):
        return image.sum() * 0, image.sum() * 0 + 1
    l1 = (weights[..., None] * (image - target).abs()).sum() / total
    return l1, (weights[..., None] * ssim_map(image, target)).sum() / total


def _usual(weight: Tensor) -> Tensor:
    """The weights with 0 for what is none, and the largest 1: only their ratios count."""
    weight = torch.where((weight > 0) & (weight < torch.inf), weight.detach(), 0.0)
    top = weight.amax()
    return torch.where(top > 0, weight / top, weight)


def ssim(image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean SSIM similarity (1 = equal); arguments as `l1_and_ssim`."""
    return l1_and_ssim(image, target, weight)[1]


@torch.no_grad()
def mean_squared_error(image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean over pixels and channels of (clamp(image, 0, 1) - target)^2; a scalar, no gradient.

    Args:
        image: [H, W, 3]; clamped here.
        target: [H, W, 3] in [0, 1].
        weight: [H, W] >= 0, or None for 1 everywhere. Where all are 0 the result is 0.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check(image, target, weight)
    if image.device.type == "cpu" and image.dtype == torch.float32:
        sums = torch.empty(2, dtype=torch.float64)
        weight = None if weight is None else weight.contiguous().to(image)
        height, width = image.shape[:2]
        call(
            "fs_squared_error", width, height, image.contiguous(), target.contiguous().to(image), weight, sums
        )
        return (sums[0] / sums[1] if sums[1] > 0 else sums[1]).to(torch.float32)
    error = (image.clamp(0, 1) - target).square().mean(-1)
    if weight is None:
        return error.mean()
    total = weight.sum()
    return torch.where(total > 0, (error * weight).sum() / total, total)


def _check(image: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if image.dim() != 3 or image.shape[-1] != 3 or target.shape != image.shape:
        raise ValueError(
            f"image, target: expected two [H, W, 3], got {list(image.shape)}, {list(target.shape)}"
        )
    if weight is not None and weight.shape != image.shape[:2]:
        raise ValueError(f"weight: expected [H, W] = {list(image.shape[:2])}, got {list(weight.shape)}")


def ssim_map(image: Tensor, target: Tensor) -> Tensor:
    """SSIM of every pixel and channel [H, W, 3], in plain torch, any dtype and device."""
    x = torch.arange(WINDOW_SIZE, dtype=torch.float64) - WINDOW_SIZE // 2
    g = torch.exp(-(x**2) / (2 * WINDOW_SIGMA**2))
    g = (g / g.sum()).to(image)

    def blur(t: Tensor) -> Tensor:  # [5, 3, H, W], zero padding
        flat = t.flatten(0, 1)[:, None]
        flat = torch.nn.functional.conv2d(flat, g[None, None, :, None], padding=(WINDOW_SIZE // 2, 0))
        flat = torch.nn.functional.conv2d(flat, g[None, None, None, :], padding=(0, WINDOW_SIZE // 2))
        return flat.view(t.shape)

    a, b = image.permute(2, 0, 1), target.permute(2, 0, 1)
    mu_a, mu_b, aa, bb, ab = blur(torch.stack([a, b, a * a, b * b, a * b])).unbind(0)
    var_a, var_b, cov = aa - mu_a**2, bb - mu_b**2, ab - mu_a * mu_b
    score = (2 * mu_a * mu_b + C1) * (2 * cov + C2) / ((mu_a**2 + mu_b**2 + C1) * (var_a + var_b + C2))
    return score.permute(1, 2, 0)


class _NativeLoss(torch.autograd.Function):
    """Both scalars from one C++ pass; the gradient with respect to the image from another."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        image, target = image.contiguous(), target.contiguous().to(image)
        weight = None if weight is None else weight.contiguous().to(image)
        height, width = image.shape[:2]
        maps = empty(3, height, width, 3) if ctx.needs_input_grad[0] else None
        sums = torch.empty(3, dtype=torch.float64)
        call("fs_image_loss_forward", width, height, image, target, weight, maps, sums)
        total = float(sums[2])
        ctx.scale = 1.0 / total if total > 0 else 0.0
        ctx.save_for_backward(image, target, weight, maps)
        l1 = (sums[0] * ctx.scale).to(torch.float32)
        return l1, (sums[1] * ctx.scale if total > 0 else torch.ones(())).to(torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        image, target, weight, maps = ctx.saved_tensors
        height, width = image.shape[:2]
        grad = empty(height, width, 3)
        scales = (float(grads[0]) * ctx.scale, float(grads[1]) * ctx.scale)
        call("fs_image_loss_backward", width, height, image, target, weight, maps, *scales, grad)
        return grad, None, None
