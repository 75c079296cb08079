"""Small Gaussian scenes for the rasterizer's tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Inputs:
    """One call's tensors; `colors` are SH coefficients [N, K, 3]."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int = 50
    height: int = 37

    def to(self, dtype: torch.dtype) -> Inputs:
        names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks")
        return replace(self, **{n: getattr(self, n).detach().to(dtype).clone() for n in names})

    def tensors(self) -> list[Tensor]:
        return [self.means, self.quats, self.scales, self.opacities, self.colors, self.viewmats]

    def call(self) -> list[Tensor | int]:
        return [*self.tensors(), self.Ks, self.width, self.height]


def rotation_y(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]], dtype=torch.float64)


def random_scene(
    n: int, cameras: int = 1, k: int = 16, width: int = 50, height: int = 37, seed: int = 0
) -> Inputs:
    """Overlapping Gaussians of all sizes and opacities around z = 3, seen by cameras side by side."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    for c in range(cameras):
        viewmats[c, :3, :3] = rotation_y(0.2 * c)
        viewmats[c, :3, 3] = torch.tensor([-0.4 * c, 0.1, 0.05 * c])
    K = torch.tensor(
        [[0.9 * width, 0, 0.47 * width], [0, 0.95 * width, 0.53 * height], [0, 0, 1]], dtype=torch.float64
    )
    return Inputs(
        means=normal(n, 3) * torch.tensor([1.0, 1.0, 0.7]) + torch.tensor([0.0, 0.0, 3.0]),
        quats=normal(n, 4),
        scales=torch.exp(normal(n, 3) * 0.6 - 2.2),
        opacities=torch.rand(n, generator=g, dtype=torch.float64),
        colors=normal(n, k, 3) * 0.3,
        viewmats=viewmats,
        Ks=K.repeat(cameras, 1, 1),
        width=width,
        height=height,
    )


def margin_to_thresholds(inputs: Inputs) -> float:
    """Smallest relative distance of any (pixel, Gaussian) alpha to 1/255 and of any transmittance to 1e-4.

    Where it is much larger than float32 rounding, float32 and float64 must take the same decisions.
    """
    from rasterizer.contract import MIN_ALPHA, MIN_TRANSMITTANCE
    from rasterizer.reference import ReferenceStages

    x = inputs.to(torch.float64)
    p = ReferenceStages().project(
        x.means, x.quats, x.scales, x.opacities, x.viewmats, x.Ks, width=x.width, height=x.height, eps2d=0.3,
        near_plane=0.01, far_plane=1e10, radius_clip=0.0, antialiased=False,
    )  # fmt: skip
    py, px = torch.meshgrid(
        torch.arange(x.height, dtype=torch.float64) + 0.5,
        torch.arange(x.width, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    worst = math.inf
    for c in range(x.viewmats.shape[0]):
        rows = torch.nonzero((p.radii[c] > 0).all(-1))[:, 0]
        rows = rows[torch.argsort(p.depths[c, rows])]
        d = p.means2d[c, rows][:, :, None, None] - torch.stack([px, py])
        q = p.conics[c, rows][:, :, None, None]
        sigma = 0.5 * (q[:, 0] * d[:, 0] ** 2 + q[:, 2] * d[:, 1] ** 2) + q[:, 1] * d[:, 0] * d[:, 1]
        alpha = (x.opacities[rows][:, None, None] * torch.exp(-sigma)).clamp(max=0.999)
        worst = min(worst, float((alpha / MIN_ALPHA - 1).abs().min()))
        left = torch.cumprod(torch.where(alpha >= MIN_ALPHA, 1 - alpha, torch.ones_like(alpha)), 0)
        worst = min(worst, float((left / MIN_TRANSMITTANCE - 1).abs().min()))
    return worst
