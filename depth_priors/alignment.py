"""Bringing a prior of unknown scale, or scale and shift, into the world's units.

    1 / z = a m + b

fits inverse depth m to what stereo or structure from motion is sure of, by iteratively reweighted least
squares with Cauchy weights (robust: a network's and a match's errors are large where they are). A network's
inverse depth is affine by training (MiDaS, Ranftl et al. 2020); the fit is done in inverse depth, in which
errors of matching are even.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_priors.prior import DepthPrior

FEWEST = 30
"""Pixels below which a fit of two numbers to errors of this kind says little."""
EXPLAINED, FLAT = 0.9, 0.01
"""A fit must leave less than the first, as a share, of the reference's median deviation from its median; or
less than the second, of that median, where the reference hardly varies."""
ROUNDS = 30
CAUCHY = 2.385
"""Residual, in standard deviations, at which a pixel counts half: 95 % efficient for normal errors."""


def align(prior: DepthPrior, reference: DepthPrior) -> DepthPrior | None:
    """The prior in world units, as inverse depth; None where no fit makes sense.

    That is: too few pixels in common, near and far the other way around, or hardly nearer to the reference
    than one depth for all would be.

    Args:
        prior: of any frame; itself, where that is `world`.
        reference: [H, W] of the same size, world frame; its confident pixels are fitted to.
    """
    if prior.frame == "world":
        return prior
    if not comparable(prior, reference):
        return None
    target = reference.inverse().double().numpy()
    both = known_to_both(prior, reference).numpy()
    weight = (reference.confidence.numpy() * prior.confidence.numpy())[both].astype(np.float64)
    affine = prior.frame == "affine"
    if affine and prior.kind == "depth":  # z = c m + d: fitted as depth, weighed as inverse depth
        measured, wanted = prior.value.numpy()[both].astype(np.float64), 1.0 / target[both]
        weight = weight * target[both] ** 2
    else:
        measured, wanted = prior.inverse().double().numpy()[both], target[both]
    scale, shift = _fit(measured, wanted, weight, affine)
    if not np.isfinite(scale) or not np.isfinite(shift) or scale <= 0:
        return None
    left = float(np.median(np.abs(wanted - scale * measured - shift)))
    middle = float(np.median(wanted))
    if left > max(EXPLAINED * float(np.median(np.abs(wanted - middle))), FLAT * middle):
        return None
    if affine and prior.kind == "depth":
        depth = scale * prior.value.numpy().astype(np.float64) + shift
        value = np.where(depth > 0, 1.0 / np.where(depth > 0, depth, 1.0), 0.0)
    else:
        value = scale * prior.inverse().double().numpy() + shift
    known = (prior.confidence.numpy() > 0) & (prior.value.numpy() > 0) & (value > 0)
    return dataclasses.replace(
        prior,
        value=torch.from_numpy(np.where(known, value, 0).astype(np.float32)),
        confidence=torch.from_numpy(np.where(known, prior.confidence.numpy(), 0).astype(np.float32)),
        kind="inverse",
        frame="world",
    )


def comparable(prior: DepthPrior, reference: DepthPrior) -> bool:
    """Whether both know enough of the same pixels for a fit."""
    return int(known_to_both(prior, reference).sum()) >= FEWEST


def known_to_both(prior: DepthPrior, reference: DepthPrior) -> Tensor:
    """[H, W] bool: pixels of which both know the depth."""
    return (reference.confidence > 0) & (prior.confidence > 0) & (prior.value > 0)


def _fit(
    x: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64], affine: bool
) -> tuple[float, float]:
    """The a and b of y = a x + b (b = 0 unless affine), robustly; NaN where x has no spread.

    Starts from medians (of the slopes between the lower and the upper half of x), which a quarter of wrong
    pixels cannot carry away as they would a least-squares start.
    """
    if affine:
        order, half = np.argsort(x, kind="stable"), len(x) // 2
        low, high = order[:half], order[-half:]
        run = x[high] - x[low]
        if not (run > 1e-9 * np.abs(x).max()).any():
            return float("nan"), float("nan")
        a = float(np.median(((y[high] - y[low])[run > 0]) / run[run > 0]))
        b = float(np.median(y - a * x))
    else:
        a, b = float(np.median(y / x)), 0.0
    for _ in range(ROUNDS):
        residual = np.abs(y - a * x - b)
        scale = 1.4826 * float(np.median(residual))  # a standard deviation, if errors were normal
        robust = weight / (1.0 + (residual / max(CAUCHY * scale, 1e-9 * float(np.abs(y).max()))) ** 2)
        if affine:
            total = robust.sum()
            mx, my = (robust * x).sum() / total, (robust * y).sum() / total
            spread = (robust * (x - mx) ** 2).sum()
            if spread <= 1e-12 * (robust * x * x).sum():
                return float("nan"), float("nan")
            a = float((robust * (x - mx) * (y - my)).sum() / spread)
            b = float(my - a * mx)
        else:
            a = float((robust * x * y).sum() / (robust * x * x).sum())
    return a, b
