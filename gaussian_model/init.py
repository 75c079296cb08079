"""First values of the Gaussians: from a point cloud, or from random points where there is none.

Initialisation decides more of a sparse-view result than any regulariser, so nothing here is silent:
dropped points and random starts are said through the log. Depth-based dense points are made
elsewhere and arrive as `Points`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from gaussian_model.parameters import log_scales, logit_opacities
from gaussian_model.spherical_harmonics import basis_count, rgb_to_sh
from scene import Points, View, focus_depth

if TYPE_CHECKING:
    from gaussian_model.gaussians import ModelConfig

log = logging.getLogger(__name__)

NEIGHBOURS = 3
"""Neighbours whose mean distance is a point's initial size (3DGS)."""
SMALLEST, LARGEST = 0.01, 20.0
"""Bounds on the initial size, in medians. In COLMAP models of six real scenes (500 to 12,000 points)
no point is below 0.01 medians and at most 1 % lie above 20: those are stray points, whose Gaussians
would cover the whole image."""
LONE_POINT_SIZE = 0.1
"""Size of a point with no neighbour, in scene extents."""
DEPTH_SPREAD = 4.0
"""Random points lie between focus depth / 4 and focus depth * 4 in front of their camera."""


def point_parameters(points: Points, config: ModelConfig, *, extent: float = 1.0) -> dict[str, Tensor]:
    """Stored parameter values of one isotropic Gaussian per finite point.

    Args:
        points: positions [P,3], colours [P,3] in [0, 1]; P may be 0. Rows with a non-finite
            coordinate are dropped with a warning; a non-finite colour becomes grey.
        config: SH degree, initial opacity, factor on the size.
        extent: scene extent, world units; only used where no point has a neighbour.

    Returns:
        The six tensors of `KEYS` on the CPU, f32: colour in the constant SH band, identity
        quaternions, size = mean distance to the 3 nearest other positions.
    """
    finite = points.xyz.isfinite().all(dim=-1)
    xyz = points.xyz[finite].float().cpu()
    rgb = points.rgb[finite].float().cpu().nan_to_num(nan=0.5, posinf=0.5, neginf=0.5).clamp(0.0, 1.0)
    count = len(xyz)
    if count < len(finite):
        log.warning("points: dropped %d of %d with a non-finite coordinate", len(finite) - count, len(finite))

    sizes = torch.from_numpy(neighbour_distances(xyz.numpy(), lone=LONE_POINT_SIZE * extent))
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1.0
    return {
        "means": xyz.clone(),
        "quats": quats,
        "scales": log_scales(sizes * config.init_scale).unsqueeze(-1).repeat(1, 3),
        "opacities": logit_opacities(torch.full((count,), config.init_opacity)),
        "sh0": rgb_to_sh(rgb).unsqueeze(1),
        "shN": torch.zeros(count, basis_count(config.sh_degree) - 1, 3),
    }


def neighbour_distances(xyz: np.ndarray, *, lone: float) -> np.ndarray:
    """Mean distance of each point to its (up to) 3 nearest other positions, bounded.

    Coincident points count as one position, so that a duplicate does not make a size of zero. The
    result is clamped to [0.01, 20] medians, against near-coincident and stray points.

    Args:
        xyz: positions [P,3], finite.
        lone: what to give where there is only one position; world units, > 0.

    Returns:
        [P] f32, > 0, world units.
    """
    if len(xyz) == 0:
        return np.zeros(0, dtype=np.float32)
    unique, inverse = np.unique(xyz.astype(np.float64), axis=0, return_inverse=True)
    if len(unique) == 1:
        return np.full(len(xyz), lone, dtype=np.float32)
    neighbours = min(NEIGHBOURS, len(unique) - 1)
    distances, _ = cKDTree(unique).query(unique, k=neighbours + 1, workers=-1)
    mean = distances[:, 1:].mean(axis=1)  # column 0 is the point itself
    median = np.median(mean)
    mean = np.clip(mean, SMALLEST * median, LARGEST * median)
    return mean[inverse.reshape(-1)].astype(np.float32)


def random_points(views: Sequence[View], count: int, generator: torch.Generator) -> Points:
    """Random points inside the views' frustums, coloured by the pixel that they lie behind.

    Pixels are uniform over the views (masked-out and transparent ones excluded), depths are
    log-uniform around the depth of the point that the cameras look at.

    Args:
        views: at least one view.
        count: number of points, spread evenly over the views.
        generator: CPU generator.

    Returns:
        `Points` with count rows on the CPU.

    Raises:
        ValueError: there is no view.
    """
    if not views:
        raise ValueError("views: expected at least one to place random points in, got none")
    depth = focus_depth(views)
    log.info(
        "%d random points in the frustums of %d views, depth %.3g to %.3g",
        count,
        len(views),
        depth / DEPTH_SPREAD,
        depth * DEPTH_SPREAD,
    )
    xyz, rgb = [], []
    for index, view in enumerate(views):
        share = count * (index + 1) // len(views) - count * index // len(views)
        column, row = _random_pixels(view, share, generator)
        offset = torch.rand(2, share, generator=generator)
        z = depth * DEPTH_SPREAD ** (2.0 * torch.rand(share, generator=generator) - 1.0)
        K, viewmat = view.camera.K.cpu(), view.camera.viewmat.cpu()
        # Coordinates go by the pixel's area, whose centre is at +0.5.
        x = (column + offset[0] - K[0, 2]) / K[0, 0]
        y = (row + offset[1] - K[1, 2]) / K[1, 1]
        local = torch.stack([x * z, y * z, z], dim=-1) - viewmat[:3, 3]  # [share, 3]
        xyz.append((local.unsqueeze(-1) * viewmat[:3, :3]).sum(dim=1))  # = R^T local
        rgb.append(view.pixels.cpu()[row, column].float() / 255.0)
    return Points(xyz=torch.cat(xyz), rgb=torch.cat(rgb))


def _random_pixels(view: View, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Columns and rows [count] of pixels that the mask and the alpha channel leave in use."""
    height, width = view.pixels.shape[:2]
    used = torch.ones(height, width, dtype=torch.bool)
    for channel in (view.mask, view.alpha):
        if channel is not None:
            used &= channel.cpu() > 0
    candidates = used.flatten().nonzero().squeeze(-1)
    if len(candidates) == 0:
        candidates = torch.arange(height * width)
    drawn = candidates[torch.randint(len(candidates), (count,), generator=generator)]
    return drawn % width, drawn // width
