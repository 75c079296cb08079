"""Where nothing can be: the space between a training camera and the nearest thing that it sees.

With few views, Gaussians there are floaters: each paints its own photograph and hangs before the others.
FreeNeRF (Yang et al. 2023) penalises density near the cameras for that reason; Gaussians can be removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scene import Camera

NEAREST = 0.01
"""Quantile of the depths of points that a camera sees that stands for the nearest; lone ones are wrong."""
ENOUGH = 20
"""Points that a camera must see."""


class EmptySpace:
    """The part of each training camera's view that lies before everything known.

    Args:
        cameras: the training cameras.
        points: [P, 3], of structure from motion, world units.
        share: of the depth of the nearest point that a camera sees, in (0, 1): what is nearer is empty space.
            A camera that sees fewer than 20 points has none.
    """

    def __init__(self, cameras: Sequence[Camera], points: Tensor, share: float) -> None:
        self.cameras: list[tuple[Camera, float]] = []
        for camera in cameras:
            z, inside = _seen(camera, points.detach().cpu())
            seen = z[inside].sort().values
            if len(seen) >= ENOUGH:
                self.cameras.append((camera, share * float(seen[int(NEAREST * len(seen))])))

    def contains(self, means: Tensor) -> Tensor:
        """Which means [N, 3] lie in any camera's empty space: [N] bool."""
        within = torch.zeros(len(means), dtype=torch.bool, device=means.device)
        for camera, limit in self.cameras:
            z, inside = _seen(camera, means.detach())
            within |= inside & (z < limit)
        return within


def _seen(camera: Camera, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Camera z [N], and which of the points [N, 3] are before the camera and in its picture."""
    viewmat, K = camera.viewmat.to(xyz), camera.K.to(xyz)
    local = (xyz.unsqueeze(-2) * viewmat[:3, :3]).sum(-1) + viewmat[:3, 3]
    x, y, z = local.unbind(-1)
    u, v = K[0, 0] * x + K[0, 2] * z, K[1, 1] * y + K[1, 2] * z
    inside = (z > 0) & (u >= 0) & (u < camera.width * z) & (v >= 0) & (v < camera.height * z)
    return z, inside
