"""Where world points fall in a view's picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene import Camera


@dataclass(frozen=True)
class Projected:
    """n points in a picture."""

    x: NDArray[np.int64]
    """[n], the pixel's column; 0 for points outside."""
    y: NDArray[np.int64]
    """[n], the pixel's row; 0 for points outside."""
    z: NDArray[np.float64]
    """[n], camera z, world units."""
    inside: NDArray[np.bool_]
    """[n], in front of the camera and in its picture."""


def project(camera: Camera, xyz: NDArray[np.floating]) -> Projected:
    """The pixels of world points [n, 3]."""
    viewmat, K = camera.viewmat.double().cpu().numpy(), camera.K.double().cpu().numpy()
    local = xyz.astype(np.float64) @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = local[:, 2]
    pixel = local @ K.T / np.where(z > 0, z, 1.0)[:, None]
    x, y = np.floor(pixel[:, 0]), np.floor(pixel[:, 1])
    inside = (z > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    return Projected(
        np.where(inside, x, 0).astype(np.int64), np.where(inside, y, 0).astype(np.int64), z, inside
    )
