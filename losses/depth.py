"""Losses between rendered depth and a depth prior, by name.

d: rendered camera z [H, W]; g: the prior as camera z; w: weights (confidence times alpha where the prior
knows something). Below, mean is the w-weighted mean over the picture. Depth is counted in units of the
prior's mean depth, so that a weight means the same in every scene.

    pearson         1 - r(d, g); MiDaS's affine M: min(1 - r(d, -M), 1 - r(d, 1 / (M + 200)))
    pearson_patch   the same in patches, averaged over them
    adepth          mean |d - g|
    rdepth          mean |z(d) - z(g)|, where z(x) = (x - mean x) / (mean |x - mean x| + 1e-6)
    rgrad           Sobel differences of z(d) - z(g) at scales 1, 2, 4, 8
    g2              adepth + rdepth + 0.5 rgrad
    ssi             mean |s d + t - g| with the s, t of least squares
    silog           sqrt(mean e^2 - 0.85 (mean e)^2), e = log d - log g
    ssi_silog_grad  ssi + silog + 0.4 rgrad
    inverse_l1      mean |1 / d - 1 / g|

Source document 003 (pearson), source document 000 (adepth to ssi_silog_grad; G2-MonoDepth, Wang et al.
2023), SparseGS (Xiong et al. 2023: patches), 3DGS's depth regularisation (inverse_l1). A loss that is
blind to scale and shift compares inverse depths where the prior knows these only up to both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from depth_priors import DepthPrior
from losses.correlation import LEAST_SPREAD, correlation
from losses.sums import mean, spread, summed, total

DepthLoss = Literal[
    "none", "pearson", "pearson_patch", "adepth", "rdepth", "rgrad", "g2", "ssi", "silog", "ssi_silog_grad",
    "inverse_l1",
]  # fmt: skip

FEWEST = 200
"""Pixels of weight above 0 below which a term says nothing and is left out."""
MIDAS_SHIFT = 200.0
"""Added to MiDaS's inverse depth before it is inverted (source document 003)."""
STEADY = 1e-6
"""Added to the mean absolute deviation that a map is divided by (source document 000)."""
VARIANCE_FOCUS = 0.85
SCALES = (1, 2, 4, 8)
"""Of rgrad: sides of the squares of pixels that are averaged first."""
LEAST_SHARE = 0.5
"""Share of a square of pixels that must be known for it to count (source document 000)."""
NEAREST = 1e-3
"""In units of the prior's mean depth: what is nearer counts as that near, so that its inverse is finite."""
TINY = 1e-18
"""Variance that a float32 still squares."""
G2_WEIGHTS = (1.0, 1.0, 0.5)
PROPOSED_WEIGHTS = (1.0, 1.0, 0.4)
"""Of ssi, silog, rgrad in ssi_silog_grad; document 000 proposes 0.3 to 0.5 for the last."""


@dataclass(frozen=True, eq=False)
class Maps:
    """What a loss compares."""

    d: Tensor
    """[H, W], rendered; differentiable. 1 where the weight is 0, so that nothing there can be infinite."""
    g: Tensor
    """[H, W], the prior's, likewise."""
    w: Tensor
    """[H, W] >= 0."""
    shifted: bool
    """g has an unknown shift, and scale."""
    metric: bool
    """g is in the units of d."""

    @cached_property
    def difference(self) -> Tensor | None:
        """z(d) - z(g) [H, W], see `rdepth`; None where one of them is constant."""
        parts = []
        for x in (self.d, self.g):
            a = _centred(x, self.w)
            if not _varies(mean(a.detach().square(), self.w), x, self.w):
                return None
            parts.append(a / spread(mean(a.abs(), self.w) + STEADY, a))
        return parts[0] - parts[1]


def depth_loss(
    name: DepthLoss, depth: Tensor, alpha: Tensor, prior: DepthPrior, *, patch: int = 64
) -> Tensor | None:
    """One loss of the list above.

    Args:
        name: which one.
        depth: [H, W], camera z, world units; differentiable.
        alpha: [H, W] in [0, 1]; no gradient.
        prior: [H, W] of the same size, on the same device.
        patch: side of the patches of pearson_patch, in pixels.

    Returns:
        A scalar >= 0, or None where it says nothing: fewer than 200 pixels have a weight, a map is constant
        where it must not be, or the prior has no scale where one is needed. A pixel where a map or a weight
        is no number, or infinite, has no weight.
    """
    weight = prior.confidence * alpha.detach() * _positive(prior.value) * _positive(depth.detach())
    weight = torch.where(_positive(weight), weight, 0.0)
    if int((weight > 0).sum()) < FEWEST:
        return None
    if name == "pearson":
        return pearson(depth, prior, weight)
    if name == "pearson_patch":
        return pearson_patches(depth, prior, weight, patch)
    return _LOSSES[name](_maps(depth, prior, weight))


def _positive(x: Tensor) -> Tensor:
    """Whether each number is above 0, and a number."""
    return (x > 0) & (x < torch.inf)


def names() -> tuple[str, ...]:
    """All losses, without none."""
    return tuple(name for name in get_args(DepthLoss) if name != "none")


def _maps(depth: Tensor, prior: DepthPrior, weight: Tensor) -> Maps:
    """Both maps in comparable form, in units of the prior's mean."""
    inverse = prior.kind == "inverse" and prior.frame == "affine"
    known = weight > 0
    d = torch.where(known, depth, 1.0)
    d = 1.0 / d if inverse else d
    g = torch.where(known, prior.value if inverse else prior.depth(), 1.0)
    metric = prior.frame == "world"
    unit = mean(g, weight).detach()
    return Maps(d / unit if metric else d, g / unit, weight, prior.frame == "affine", metric)


def pearson(depth: Tensor, prior: DepthPrior, weight: Tensor) -> Tensor | None:
    """1 - r; None where a map is constant."""
    targets = _pearson_targets(prior)
    losses = [1.0 - r for target in targets if (r := correlation(depth, target, weight)) is not None]
    return torch.stack(losses).min() if losses else None  # 1 / (M + 200) is constant where M is small


def _pearson_targets(prior: DepthPrior) -> list[Tensor]:
    """What rendered depth should be proportional to, up to a shift; several: any of them."""
    if prior.kind == "inverse" and prior.frame == "affine":
        return [-prior.value, 1.0 / (prior.value + MIDAS_SHIFT)]
    return [prior.depth()]


def pearson_patches(depth: Tensor, prior: DepthPrior, weight: Tensor, side: int) -> Tensor | None:
    """The mean over patches of the smallest 1 - r; None where no patch counts.

    A patch counts if half of it has a weight and neither map is constant there.
    """
    w = _patches(weight, side)
    x = _patches(torch.where(weight > 0, depth, 0.0), side)
    share = w / w.sum(1, keepdim=True).clamp_min(1e-12)
    full = (w > 0).sum(1) >= LEAST_SHARE * w.shape[1]
    losses, counts = [], []
    for target in _pearson_targets(prior):
        loss, varied = _one_minus_r(x, _patches(torch.where(weight > 0, target, 0.0), side), share)
        losses.append(torch.where(varied, loss, 2.0))  # the worst there is: the other branch wins
        counts.append(varied)
    best = torch.stack(losses).amin(0)
    full &= torch.stack(counts).any(0)
    count = int(full.sum())
    return summed(torch.where(full, best, 0.0)) / count if count else None


def _one_minus_r(x: Tensor, y: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """1 - r of each row [P, n] with shares [P, n] that sum to 1, and whether both rows vary."""
    known = share > 0
    a = torch.where(known, x - (share * x).sum(1, keepdim=True), 0.0)
    b = torch.where(known, y - (share * y).sum(1, keepdim=True), 0.0)
    var_a, var_b = (share * a * a).sum(1), (share * b * b).sum(1)
    varied = (var_a > LEAST_SPREAD * (share * x * x).sum(1)) & (var_b > LEAST_SPREAD * (share * y * y).sum(1))
    for var in (var_a, var_b):
        varied &= (var > TINY) & var.isfinite()
    product = torch.where(varied, var_a, 1.0).sqrt() * torch.where(varied, var_b, 1.0).sqrt()
    return 1.0 - torch.where(varied, (share * a * b).sum(1), 0.0) / product, varied.detach()


def _patches(x: Tensor, side: int) -> Tensor:
    """[P, side^2]: a picture [H, W] cut into squares, which zeros fill up at its right and lower end.

    P is 2 at least (where there is one square, zeros are another): torch divides the sum of a single row
    among its threads, and its bits would depend on their number.
    """
    height, width = x.shape
    side = min(side, height, width)
    more = side if max(height, width) <= side else 0
    padded = functional.pad(x, (0, -width % side, 0, -height % side + more))
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    return padded.reshape(rows, side, columns, side).permute(0, 2, 1, 3).reshape(rows * columns, side * side)


def adepth(maps: Maps) -> Tensor | None:
    """Mean absolute difference, in units of the prior's mean depth; None without a known scale."""
    return mean((maps.d - maps.g).abs(), maps.w) if maps.metric else None


def inverse_l1(maps: Maps) -> Tensor | None:
    """Mean absolute difference of inverse depths, in units of the prior's mean depth; None as adepth."""
    if not maps.metric:
        return None
    return mean((1.0 / maps.d.clamp_min(NEAREST) - 1.0 / maps.g.clamp_min(NEAREST)).abs(), maps.w)


def rdepth(maps: Maps) -> Tensor | None:
    """Mean absolute difference of the standardised maps."""
    return None if maps.difference is None else mean(maps.difference.abs(), maps.w)


def rgrad(maps: Maps) -> Tensor | None:
    """Sobel responses of the standardised maps' difference, |x| + |y|, a mean at each of four scales."""
    if maps.difference is None:
        return None
    losses = []
    for scale in SCALES:
        e, w = _pooled(maps.difference, maps.w, scale)
        if min(e.shape) == 0:
            continue
        w = w * _whole_support(w)
        if float(total(w)) > 0:
            losses.append(mean(_sobel(e), w))
    return torch.stack(losses).sum() / len(SCALES) if losses else None


def g2(maps: Maps) -> Tensor | None:
    """The sum adepth + rdepth + 0.5 rgrad (source document 000)."""
    return _weighted(G2_WEIGHTS, adepth(maps), rdepth(maps), rgrad(maps))


def ssi(maps: Maps) -> Tensor | None:
    """Mean |s d + t - g| with the least-squares s and t; differentiable through these."""
    a, b = _centred(maps.d, maps.w), _centred(maps.g, maps.w)
    variance = mean(a * a, maps.w)
    if not _varies(variance, maps.d, maps.w):
        return None
    scale = mean(a * b, maps.w) / variance
    return mean((spread(scale, a) * a - b).abs(), maps.w)


def silog(maps: Maps) -> Tensor | None:
    """Scale-invariant logarithmic error (Eigen et al. 2014); None where the prior has an unknown shift.

    Where its scale is unknown the variance focus is 1: nothing of a common factor remains.
    """
    if maps.shifted:
        return None
    e = maps.d.log() - maps.g.log()
    if maps.metric:
        square = mean(e * e, maps.w) - VARIANCE_FOCUS * mean(e, maps.w).square()
    else:
        square = mean(_centred(e, maps.w).square(), maps.w)
    return square.clamp_min(1e-12).sqrt()


def ssi_silog_grad(maps: Maps) -> Tensor | None:
    """The sum ssi + silog + 0.4 rgrad (source document 000, 6.3)."""
    return _weighted(PROPOSED_WEIGHTS, ssi(maps), silog(maps), rgrad(maps))


def _weighted(weights: tuple[float, ...], *losses: Tensor | None) -> Tensor | None:
    """The weighted sum; None where one of them is None."""
    known = [loss for loss in losses if loss is not None]
    if len(known) < len(losses):
        return None
    return torch.stack([weight * loss for weight, loss in zip(weights, known, strict=True)]).sum()


def _centred(x: Tensor, w: Tensor) -> Tensor:
    """The map minus its mean; 0 where the weight is 0."""
    return torch.where(w > 0, x - spread(mean(x, w), x), 0.0)


def _varies(variance: Tensor, x: Tensor, w: Tensor) -> bool:
    return bool(variance.detach() > LEAST_SPREAD * mean(x.detach().square(), w) + TINY)


def _pooled(x: Tensor, w: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """Weighted means of whole squares of pixels, and their mean weights; 0 where half of one is unknown."""
    height, width = x.shape[0] // scale, x.shape[1] // scale

    def sums(t: Tensor) -> Tensor:
        squares = t[: height * scale, : width * scale].reshape(height, scale, width, scale)
        return squares.sum(3).sum(1)

    if scale == 1:
        return x, w
    weight, known = sums(w), sums((w > 0).to(w))
    enough = known > LEAST_SHARE * scale * scale
    value = torch.where(enough, sums(x * w) / torch.where(enough, weight, 1.0), 0.0)
    return value, torch.where(enough, weight / (scale * scale), 0.0)


def _sobel(e: Tensor) -> Tensor:
    """|x| + |y| of the Sobel responses; zeros lie outside, as in source document 000."""
    p = functional.pad(e, (1, 1, 1, 1))
    across = p[:, 2:] - p[:, :-2]
    down = p[2:] - p[:-2]
    gx = across[:-2] + 2.0 * across[1:-1] + across[2:]
    gy = down[:, :-2] + 2.0 * down[:, 1:-1] + down[:, 2:]
    return gx.abs() + gy.abs()


def _whole_support(w: Tensor) -> Tensor:
    """1 where all of a pixel's 3x3 neighbours are known; those outside the picture count as known."""
    unknown = (w <= 0).to(w)[None, None]
    return 1.0 - functional.max_pool2d(unknown, 3, stride=1, padding=1)[0, 0]


_LOSSES: dict[str, Callable[[Maps], Tensor | None]] = {
    "adepth": adepth,
    "rdepth": rdepth,
    "rgrad": rgrad,
    "g2": g2,
    "ssi": ssi,
    "silog": silog,
    "ssi_silog_grad": ssi_silog_grad,
    "inverse_l1": inverse_l1,
}
