"""What the training photographs show of a place that nobody photographed.

The confident surfaces of all views are splatted into a new camera, the nearest first: that is its depth. Its
colours are fetched from the photographs through that depth, where the photograph's own depth agrees (forward
warping as in MVPGS, Xu et al. 2024, with the picture sampled backwards so that it has no holes of splatting).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from depth_priors.points import dense_points
from depth_priors.prior import DepthPrior
from scene import Camera, View, image_points, world_points

FOOT = 2
"""Side of the square of pixels that a point covers."""
GAP = 5
"""Side of the window in which a nearer surface makes what shows through its gaps invisible."""
BEHIND = 1.1
"""Factor by which depth must exceed the window's least one to be such."""
AGREE = 0.02
"""Difference of depth, relative, up to which a photograph shows the surface in question."""
SAME = 0.03
"""Difference of inverse depth, relative, up to which a pixel takes the median of its 3x3 neighbours."""
FADE = 3.0
"""Standard deviation in pixels of the blur that fills unknown pixels: SSIM's window reaches into them."""


@dataclass(frozen=True, eq=False)
class _Photograph:
    view: View
    inverse: NDArray[np.float32]
    """[H, W], its inverse depth."""
    centre: NDArray[np.float64]
    """[3], where it was taken."""


class NewViews:
    """Pictures and depth of new cameras, from what stereo is confident of.

    Args:
        views: V training views.
        priors: theirs, world frame; None where there is none. Completed ones are of no use: only pixels that
            other views confirm count.
    """

    def __init__(self, views: Sequence[View], priors: Sequence[DepthPrior | None]) -> None:
        self._views = [
            _Photograph(view, prior.inverse().numpy(), view.camera.center.double().numpy())
            for view, prior in zip(views, priors, strict=True)
            if prior is not None
        ]
        points = dense_points(views, priors, spacing=1.0)
        self._xyz = points.xyz.double().numpy()

    def __len__(self) -> int:
        """Number of surface points that are known."""
        return len(self._xyz)

    def __call__(self, camera: Camera, name: str, *, coloured: bool = True) -> tuple[View, DepthPrior]:
        """A picture as the camera would take it, and its depth.

        Args:
            camera: on the CPU.
            name: of the view.
            coloured: whether its colours matter; else they are black.

        Returns:
            A view whose mask is 0 where nothing is known (its colours fade out there), and inverse depth in
            world units with confidence 1 or 0.
        """
        inverse = self._depth(camera)
        pixels, known = self._colours(camera, inverse, coloured)
        inverse = np.where(known, inverse, 0.0).astype(np.float32)
        mask = torch.from_numpy(np.where(known, 255, 0).astype(np.uint8))
        view = View(name, camera, torch.from_numpy(pixels), None, mask)
        sure = torch.from_numpy(known.astype(np.float32))
        return view, DepthPrior(torch.from_numpy(inverse), "inverse", "world", sure, "new view")

    def _depth(self, camera: Camera) -> NDArray[np.float32]:
        """[H, W], inverse depth of the nearest point; 0 where there is none, or it shows through a gap."""
        u, v, z = image_points(camera, self._xyz)
        before = z > 1e-6
        u, v, z = u[before], v[before], z[before]
        inverse = np.zeros((camera.height, camera.width), np.float32)
        for down in range(FOOT):
            for right in range(FOOT):
                x = np.floor(u + right - 0.5 * (FOOT - 1))
                y = np.floor(v + down - 0.5 * (FOOT - 1))
                inside = (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
                at = y[inside].astype(np.int64), x[inside].astype(np.int64)
                np.maximum.at(inverse, at, (1.0 / z[inside]).astype(np.float32))
        nearest = cv2.dilate(inverse, np.ones((GAP, GAP), np.uint8))
        inverse[inverse * BEHIND < nearest] = 0.0
        middle = cv2.medianBlur(inverse, 3)
        return np.where(np.abs(middle - inverse) < SAME * inverse, middle, inverse)

    def _colours(
        self, camera: Camera, inverse: NDArray[np.float32], coloured: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """[H, W, 3], each pixel from the photograph taken nearest to the camera that shows it; and where."""
        height, width = inverse.shape
        surface = inverse > 0
        row, column = (part.ravel() + 0.5 for part in np.indices((height, width)))
        depth = 1.0 / np.where(surface, inverse, 1.0).astype(np.float64).ravel()
        world = world_points(camera, column, row, depth)
        centre = camera.center.double().numpy()
        colours = np.zeros((height, width, 3), np.float32)
        known = np.zeros((height, width), bool)
        for photo in sorted(self._views, key=lambda photo: float(np.linalg.norm(photo.centre - centre))):
            u, v, z = (part.reshape(height, width) for part in image_points(photo.view.camera, world))
            x, y = (u - 0.5).astype(np.float32), (v - 0.5).astype(np.float32)
            theirs = cv2.remap(photo.inverse, x, y, cv2.INTER_NEAREST)  # 0 outside
            shown = surface & (z > 1e-6) & (np.abs(theirs * z - 1.0) < AGREE) & ~known
            known |= shown
            if coloured:
                pixels = photo.view.pixels.numpy()
                fetched = cv2.remap(pixels, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
                colours[shown] = fetched[shown]
        if not coloured:
            return np.zeros((height, width, 3), np.uint8), known
        amount = cv2.GaussianBlur(known.astype(np.float32), (0, 0), FADE)
        around = cv2.GaussianBlur(colours, (0, 0), FADE) / np.maximum(amount, 1e-4)[..., None]
        filled = np.where(known[..., None], colours, around)
        return filled.clip(0, 255).round().astype(np.uint8), known
