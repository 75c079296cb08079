"""PSNR, and the rounding to 8 bits before every metric. SSIM is that of the losses."""

from __future__ import annotations

import math

from torch import Tensor

MAX_PSNR = 100.0
"""dB reported for equal images, whose PSNR is infinite: JSON has no infinity and means must stay finite."""


def to_8bit(image: Tensor) -> Tensor:
    """Colours as a picture file holds them.

    Args:
        image: [H, W, 3] any range; NaN counts as 0.

    Returns:
        [H, W, 3] uint8: clamped to [0, 1], times 255, rounded to nearest.
    """
    return (image.detach().nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).round().byte()


def psnr(image: Tensor, target: Tensor, weight: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB for colours in [0, 1].

    The squared error is pooled over all pixels and channels before the logarithm.

    Args:
        image: [H, W, 3].
        target: [H, W, 3].
        weight: [H, W] in [0, 1], how much each pixel counts; None for all alike.

    Returns:
        dB, at most `MAX_PSNR`; NaN where no pixel counts.

    Raises:
        ValueError: If shapes differ.
    """
    if image.shape != target.shape:
        raise ValueError(f"image: expected {list(target.shape)}, got {list(image.shape)}")
    error = (image.double() - target.double()) ** 2
    if weight is None:
        mean = float(error.mean())
    else:
        total = float(weight.double().sum())
        if total <= 0:
            return math.nan
        mean = float((error * weight.double()[..., None]).sum()) / (image.shape[-1] * total)
    return MAX_PSNR if mean <= 10 ** (-MAX_PSNR / 10) else -10.0 * math.log10(mean)
