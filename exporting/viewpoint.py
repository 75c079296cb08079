"""Where a page opens: at one of the run's cameras, or, where none are known, in front of the Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import torch

from exporting.splats import Splats
from scene import Camera, NamedCamera
from scene.geometry import Vector, direction, focus_point, median_depth, poses, spread, unit, upright

_FIELD_OF_VIEW = math.radians(50.0)  # vertical, where no camera tells
_Y_DOWN_UP = np.array([0.0, -1.0, 0.0])  # how viewers of the 3DGS family take a .ply's axes


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """A place to look from, and what orbits turn about.

    Attributes:
        position: [3] of the eye, world units.
        target: [3] in the middle of the picture; never at `position`.
        up: [3] of length 1.
        field_of_view: vertical, radians.
    """

    position: Vector
    target: Vector
    up: Vector
    field_of_view: float

    @property
    def distance(self) -> float:
        """From the eye to the target, world units."""
        return float(np.linalg.norm(self.target - self.position))


def camera_viewpoint(camera: Camera, cameras: Sequence[Camera], splats: Splats) -> Viewpoint:
    """The view of `camera`, one of `cameras`, but level: up is what all of them were held to."""
    (center,), (rotation,) = poses([camera])
    forward = rotation[:, 2]
    points = torch.from_numpy(splats.means)
    depth = float((focus_point(cameras, points=points) - center) @ forward)
    if depth <= 0:  # it looks away from what the others look at
        depth = median_depth([camera], points) or spread(poses(cameras)[0]) or 1.0
    up = direction(upright(poses(cameras)[1]), _Y_DOWN_UP)
    if abs(float(up @ forward)) > math.cos(
        math.radians(1.0)
    ):  # it looks straight down: orbits need another axis
        up = -rotation[:, 1]
    fov = 2.0 * math.atan(0.5 * camera.height / float(camera.K[1, 1]))
    return Viewpoint(center, center + depth * forward, up, fov)


def best_camera(cameras: Sequence[Camera], splats: Splats) -> Camera:
    """The camera that looks most squarely at what all look at, from the usual distance and the middle."""
    centers, rotations = poses(cameras)
    focus = focus_point(cameras, points=torch.from_numpy(splats.means))
    towards = focus - centers
    distances = np.linalg.norm(towards, axis=1)
    usual = float(np.median(distances)) or 1.0
    ahead = (towards * rotations[:, :, 2]).sum(axis=1) / np.maximum(distances, 1e-12 * usual)
    off_axis = np.arccos(np.clip(ahead, -1.0, 1.0))
    off_distance = np.abs(np.log(np.maximum(distances, 1e-6 * usual) / usual))
    off_centre = np.linalg.norm(centers - centers.mean(axis=0), axis=1) / (spread(centers) or 1.0)
    tilt = np.arccos(np.clip(-rotations[:, :, 1] @ upright(rotations), -1.0, 1.0))
    return cameras[int(np.argmin(off_axis + off_distance + 0.25 * off_centre + 0.5 * tilt))]


def named_camera(cameras: Sequence[NamedCamera], name: str) -> Camera | None:
    """The camera of an image, named with or without its folder and ending; None if there is none."""
    for camera in cameras:
        path = PurePosixPath(camera.name)
        if name in (camera.name, path.name, path.stem, str(path.with_suffix("")) if path.name else ""):
            return camera.camera
    return None


def guessed_viewpoint(splats: Splats) -> Viewpoint:
    """In front of the more opaque Gaussians, a little above, with y pointing down."""
    opaque = splats.means[splats.opacities >= np.median(splats.opacities)].astype(np.float64)
    middle = np.median(opaque, axis=0)
    size = float(np.median(np.linalg.norm(opaque - middle, axis=1)))
    if not size > 0:
        size = float(np.exp(splats.log_scales.max()))
    back = 3.0 * size * unit(np.array([0.0, -0.3, -1.0]))
    return Viewpoint(middle + back, middle, _Y_DOWN_UP, _FIELD_OF_VIEW)
