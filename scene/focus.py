"""How far away the thing is that a set of cameras looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from scene.view import View


def focus_depth(views: Sequence[View]) -> float:
    """Median camera z of the point nearest to all optical axes, world units, > 0.

    Parallel axes (or cameras that look apart) have no such point in front of them; then 5 times the
    largest distance between a camera and their mean stands in (forward-facing captures of the LLFF
    set have 5 to 6), and 1 where the cameras coincide, since nothing then fixes the scale.
    """
    viewmats = torch.stack([view.camera.viewmat for view in views]).double().cpu()
    axes = viewmats[:, 2, :3]  # world direction of camera z
    centers = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:]).squeeze(-1)
    spread = float((centers - centers.mean(dim=0)).norm(dim=-1).max())
    projectors = torch.eye(3, dtype=torch.float64) - axes.unsqueeze(-1) * axes.unsqueeze(-2)
    normal = projectors.mean(dim=0)
    # Smallest eigenvalue = mean squared sine of the axes' angles to their common direction; below
    # (1 degree)^2 the intersection is noise.
    if spread > 0.0 and float(torch.linalg.eigvalsh(normal)[0]) > math.radians(1.0) ** 2:
        focus = torch.linalg.solve(normal, (projectors @ centers.unsqueeze(-1)).mean(dim=0).squeeze(-1))
        depth = float(((focus - centers) * axes).sum(dim=-1).median())
        if depth > 0.1 * spread:
            return depth
    return 5.0 * spread if spread > 0.0 else 1.0
