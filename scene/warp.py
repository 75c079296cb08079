"""Resampling what a lens has distorted: where each pixel of the undistorted image comes from."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Warp:
    """Where the pixels of an undistorted image come from."""

    map_x: NDArray[np.float32]
    """[H, W] column in the photograph, in OpenCV's coordinates (pixel centre at +0)."""
    map_y: NDArray[np.float32]
    """[H, W] row."""
    valid: NDArray[np.bool_] | None
    """[H, W]; None where every pixel comes from inside the photograph."""


@dataclass(frozen=True, eq=False)
class Undistortion:
    """How a photograph was undistorted, so that any map of the photograph can be."""

    lens: pycolmap.Camera
    """Of the photograph, at its own size."""
    K: Array
    """[3, 3], the pinhole at the lens's size, that it was resampled to."""

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map [h, w] of the photograph, undistorted, at its own size; 0 where the lens shows nothing."""
        warp = make_warp(self.lens, self.K, image.shape[1], image.shape[0])
        moved = cv2.remap(
            image, warp.map_x, warp.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.float32)
        return moved if warp.valid is None else np.where(warp.valid, moved, 0).astype(np.float32)


def make_warp(camera: pycolmap.Camera, K: Array, width: int, height: int) -> Warp:
    """The sampling positions for a photograph of `width` x `height`.

    Args:
        camera: The lens, at its own size.
        K: The pinhole at the lens's size, from `pinhole_for`.
        width: The photograph's, in pixels; it may be a scaled copy of what the lens describes.
        height: Likewise.
    """
    scale_x, scale_y = width / camera.width, height / camera.height
    columns = ((np.arange(width) + 0.5) / scale_x - K[0, 2]) / K[0, 0]
    rows = ((np.arange(height) + 0.5) / scale_y - K[1, 2]) / K[1, 1]
    map_x = np.empty((height, width), np.float32)
    map_y = np.empty((height, width), np.float32)
    step = max(1, 1_000_000 // width)  # bounds the float64 temporaries to some tens of megabytes
    for top in range(0, height, step):
        y = rows[top : top + step]
        xy = project(camera, np.stack(np.broadcast_arrays(columns[None, :], y[:, None]), axis=-1))
        map_x[top : top + step] = xy[..., 0] * scale_x - 0.5
        map_y[top : top + step] = xy[..., 1] * scale_y - 0.5
    slack = 0.51  # half a pixel beyond the outer centres is still the outer pixels' area
    with np.errstate(invalid="ignore"):
        valid = (map_x >= -slack) & (map_x <= width - 1 + slack)
        valid &= (map_y >= -slack) & (map_y <= height - 1 + slack)
    if valid.all():
        return Warp(map_x, map_y, None)
    return Warp(np.where(valid, map_x, -1.0), np.where(valid, map_y, -1.0), valid)


def project(camera: pycolmap.Camera, rays: Array) -> Array:
    """Photograph position [..., 2] of the rays (x, y, 1) [..., 2]; NaN where the lens shows none."""
    points = np.concatenate([rays.reshape(-1, 2), np.ones((rays.size // 2, 1))], axis=1)
    return np.asarray(camera.img_from_cam(points), dtype=np.float64).reshape(rays.shape)
