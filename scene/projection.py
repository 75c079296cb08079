"""From the world into a picture and back: the one place for both, in double precision on the CPU.

(`gaussian_model/densify/front.py` has its own, for Gaussians on whatever device they are.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene.camera import Camera


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
    u, v, z = image_points(camera, xyz)
    x, y = np.floor(u), np.floor(v)
    inside = (z > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    return Projected(
        np.where(inside, x, 0).astype(np.int64), np.where(inside, y, 0).astype(np.int64), z, inside
    )


def image_points(
    camera: Camera, xyz: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows in pixels (centres at +0.5) and camera z of world points [n, 3]: each [n].

    Columns and rows mean nothing where z is not above 0.
    """
    viewmat, K = _matrices(camera)
    local = xyz.astype(np.float64) @ viewmat[:3, :3].T + viewmat[:3, 3]
    z = local[:, 2]
    u, v, _ = (local @ K.T / np.where(z > 0, z, 1.0)[:, None]).T
    return u, v, z


def world_points(
    camera: Camera, u: NDArray[np.floating], v: NDArray[np.floating], z: NDArray[np.floating]
) -> NDArray[np.float64]:
    """World points [n, 3] at columns and rows in pixels (centres at +0.5) and camera z: each [n]."""
    viewmat, K = _matrices(camera)
    local = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T * z[:, None]
    return (local - viewmat[:3, 3]) @ viewmat[:3, :3]


def _matrices(camera: Camera) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return camera.viewmat.double().cpu().numpy(), camera.K.double().cpu().numpy()
