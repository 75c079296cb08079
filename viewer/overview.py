"""Where one looks from first: a little behind a camera from where the photographs hide the scene least.

The pyramids of other cameras may stand right in front of the one that is chosen, and a photograph on its base
covers a tenth of the window and more. So some cameras are tried, and what they would see is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from scene import Camera
from scene.geometry import Array
from viewer.frame import RADIUS, Frame, Pose

_TRIED = 48  # cameras, evenly spread
_LITTLE = 0.01  # share of the picture; less hides nothing that one would miss
_RASTER = (120, 75)  # pixels that the shares are counted in
_NEAR = 0.01  # viewer units; where a browser's camera begins to see
_CLOSE = 0.15 * RADIUS  # nearer photographs would hide what one looks at, whatever their size


def in_the_way(places: Array, eye: Array, size: float) -> NDArray[np.bool_]:
    """Which cameras [C] at `places` [C, 3] step aside for somebody at `eye` [3], at that size of pyramids."""
    return np.asarray(np.linalg.norm(places - eye, axis=-1) < max(_CLOSE, 5.0 * size), np.bool_)


def corners(pose: Pose, size: float) -> Array:
    """Corners [4, 3] of the photograph on a pyramid's base, in order around it; viser's rule for its size.

    viser gives all pyramids of one size the same volume, whatever their field of view.
    """
    high = np.tan(pose.fov / 2)
    wide = high * pose.aspect
    base = np.array([[-wide, -high, 1], [wide, -high, 1], [wide, high, 1], [-wide, high, 1]])
    return pose.position + size / np.cbrt(wide * high / 3) * base @ pose.axes.T


def hidden_share(look: Pose, poses: Sequence[Pose], size: float) -> float:
    """Share of the picture, in [0, 1], that photographs cover which stand before the centre.

    Args:
        look: who looks, at the origin.
        poses: the cameras that have a pyramid; those that step aside are left out.
        size: of the pyramids.
    """
    wide, high = _RASTER
    scale = np.array([wide / look.aspect, high]) / (2 * np.tan(look.fov / 2))
    picture = np.zeros((high, wide), np.uint8)
    places = np.array([pose.position for pose in poses]).reshape(-1, 3)
    seen = (np.array([corners(pose, size) for pose in poses]).reshape(-1, 4, 3) - look.position) @ look.axes
    depth = seen[..., 2].mean(-1)
    before = (depth > _NEAR) & (depth < np.linalg.norm(look.position))
    for photograph in seen[before & ~in_the_way(places, look.position, size)]:
        visible = _before_the_eye(photograph)
        at = visible[:, :2] / visible[:, 2:] * scale + np.array(_RASTER) / 2
        cv2.fillConvexPoly(picture, np.clip(at, -1e4, 1e4).round().astype(np.int32), 1)
    return float(picture.mean())


def best_look(frame: Frame, cameras: Sequence[Camera], poses: Sequence[Pose], size: float) -> Pose:
    """The look from behind that camera, of some, from where photographs hide least.

    Where several hide next to nothing, it is the one nearest to the usual distance and the cameras' middle.

    Args:
        frame: the viewer's units.
        cameras: those to choose from, at least one.
        poses: the cameras that have a pyramid.
        size: of the pyramids.
    """
    tried = np.linspace(0, len(cameras) - 1, min(len(cameras), _TRIED)).round().astype(int)
    places = np.array([frame.pose(cameras[i]).position for i in tried])
    away = np.maximum(np.linalg.norm(places, axis=1), 1e-6 * RADIUS)
    odd = np.abs(np.log(away / RADIUS)) + 0.25 * np.linalg.norm(places - places.mean(0), axis=1) / RADIUS
    best, least = frame.first_look(cameras[0]), np.inf
    for i in tried[np.argsort(odd, kind="stable")]:
        look = frame.first_look(cameras[i])
        hidden = hidden_share(look, poses, size)
        if hidden < least:
            best, least = look, hidden
        if hidden <= _LITTLE:
            break
    return best


def _before_the_eye(polygon: Array) -> Array:
    """The part [P, 3] of a polygon [4, 3], in camera axes, that lies beyond the near plane."""
    kept = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if a[2] > _NEAR:
            kept.append(a)
        if (a[2] > _NEAR) != (b[2] > _NEAR):
            kept.append(a + (_NEAR - a[2]) / (b[2] - a[2]) * (b - a))
    return np.array(kept)
