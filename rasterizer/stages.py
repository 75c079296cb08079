"""The path from Gaussians to pixels, written once for our two backends as a chain of three stages.

A backend is an object with `project`, `spherical_harmonics` and `composite`; this module joins them
in the order, and with the packing, channel layout and meta, of gsplat 1.5.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rasterizer.contract import TILE_SIZE

# SH coefficients [N, K, 3] or [C, N, K, 3]; or, to spare a copy, the pair of [N, 1, 3] and [N, K-1, 3].
Coefficients = Tensor | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Projection:
    """Gaussians on the image planes of C cameras; rows with radii 0 are culled and hold zeros.

    Attributes:
        radii: [C, N, 2] int32, half-width and half-height of the box in pixels, 0 where culled.
        means2d: [C, N, 2] pixels.
        depths: [C, N] camera-space z.
        conics: [C, N, 3] inverse 2D covariance (xx, xy, yy), 1/pixels^2.
        compensations: [C, N] opacity factor of the blur in [0, 1] (antialiased mode), else None.
    """

    radii: Tensor
    means2d: Tensor
    depths: Tensor
    conics: Tensor
    compensations: Tensor | None


class Stages(Protocol):
    """The three stages of a backend."""

    def project(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        *,
        width: int,
        height: int,
        eps2d: float,
        near_plane: float,
        far_plane: float,
        radius_clip: float,
        antialiased: bool,
    ) -> Projection:
        """Projects N Gaussians to C cameras (EWA splatting; gsplat's fully_fused_projection)."""
        ...

    def spherical_harmonics(
        self, degree: int, means: Tensor, campos: Tensor, coeffs: Coefficients, radii: Tensor
    ) -> Tensor:
        """Colours [C, N, 3] >= 0 from campos [C, 3] and coefficients; 0 where culled."""
        ...

    def composite(
        self,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        depths: Tensor,
        radii: Tensor,
        counts: list[int],
        *,
        width: int,
        height: int,
        backgrounds: Tensor | None,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        """Blends rows front to back into [C, H, W, D] and [C, H, W, 1].

        The rows of camera c are the next counts[c] of means2d [M, 2], conics [M, 3], colors [M, D],
        opacities [M], depths [M] and radii [M, 2]. With absgrad, backward sets `means2d.absgrad`.
        """
        ...


def rasterize(
    stages: Stages,
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Coefficients,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    eps2d: float,
    sh_degree: int | None,
    packed: bool,
    backgrounds: Tensor | None,
    render_mode: str,
    absgrad: bool,
    antialiased: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Runs the stages; arguments and results are those of `rasterizer.rasterization`."""
    n, c = means.shape[0], viewmats.shape[0]
    projection = stages.project(
        means,
        quats,
        scales,
        opacities,
        viewmats,
        Ks,
        width=width,
        height=height,
        eps2d=eps2d,
        near_plane=near_plane,
        far_plane=far_plane,
        radius_clip=radius_clip,
        antialiased=antialiased,
    )
    radii, means2d, depths, conics = (
        projection.radii,
        projection.means2d,
        projection.depths,
        projection.conics,
    )
    row_opacities = opacities[None].expand(c, n)
    if projection.compensations is not None:
        row_opacities = row_opacities * projection.compensations
    row_colors: Tensor | None = None
    if render_mode not in ("D", "ED"):
        if sh_degree is None:
            assert isinstance(colors, Tensor), "only coefficients come as a pair"
            row_colors = colors[None].expand(c, n, colors.shape[-1]) if colors.dim() == 2 else colors
        else:
            campos = torch.inverse(viewmats)[:, :3, 3]
            row_colors = stages.spherical_harmonics(sh_degree, means, campos, colors, radii)

    camera_ids = gaussian_ids = None
    counts = [n] * c
    if packed:
        camera_ids, gaussian_ids = torch.nonzero((radii > 0).all(-1), as_tuple=True)
        counts = torch.bincount(camera_ids, minlength=c).tolist()
        radii, means2d, depths = (
            radii[camera_ids, gaussian_ids],
            means2d[camera_ids, gaussian_ids],
            depths[camera_ids, gaussian_ids],
        )
        conics, row_opacities = conics[camera_ids, gaussian_ids], row_opacities[camera_ids, gaussian_ids]
        if row_colors is not None:
            row_colors = row_colors[camera_ids, gaussian_ids]

    with_depth = render_mode != "RGB"
    channels = row_colors
    if with_depth:
        channels = depths[..., None] if row_colors is None else torch.cat([row_colors, depths[..., None]], -1)
        if backgrounds is not None:
            zero = backgrounds.new_zeros(c, 1)
            backgrounds = zero if row_colors is None else torch.cat([backgrounds, zero], -1)
    assert channels is not None
    image, alpha = stages.composite(
        means2d,
        conics,
        channels,
        row_opacities,
        depths,
        radii,
        counts,
        width=width,
        height=height,
        backgrounds=backgrounds,
        absgrad=absgrad,
    )
    if render_mode in ("ED", "RGB+ED"):
        image = torch.cat([image[..., :-1], image[..., -1:] / alpha.clamp(min=1e-10)], -1)
    meta = {
        "batch_ids": None,
        "camera_ids": camera_ids,
        "gaussian_ids": gaussian_ids,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": row_opacities,
        "tile_width": math.ceil(width / TILE_SIZE),
        "tile_height": math.ceil(height / TILE_SIZE),
        "width": width,
        "height": height,
        "tile_size": TILE_SIZE,
        "n_batches": 1,
        "n_cameras": c,
    }
    return image, alpha, meta
