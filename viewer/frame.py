"""The viewer's own units, and poses in them.

The world of a COLMAP model has any size and any place; a browser's camera has a near plane, and splats are
sent in half precision. So the viewer shows the world moved and scaled: what the cameras look at is the
origin, and the cameras stand about `RADIUS` from it. Directions stay those of the world.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from scene import Camera
from scene.geometry import Array, Vector, focus_point, look_along, median_depth, poses, upright

RADIUS = 4.0  # viewer units: a browser's camera sees from 0.01 to 1000 of them
_NO_CAMERAS_UP = np.array([0.0, -1.0, 0.0])  # y is down in the models of COLMAP whose ground is level
_BACK, _UP = 0.1, 0.03  # the first look: so far behind and above a camera, as shares of its distance
_WINDOW = 1.6  # width over height of a browser's window, about
_CLOSE = 0.02  # share of RADIUS: nearer cameras would make the world enormous


@dataclass(frozen=True)
class Pose:
    """How a camera stands and looks, in viewer units.

    Attributes:
        position: [3].
        wxyz: [4] camera-to-world, OpenCV axes.
        fov: vertical field of view, radians.
        aspect: width over height.
    """

    position: Vector
    wxyz: Vector
    fov: float
    aspect: float

    @property
    def axes(self) -> Array:
        """Camera-to-world rotation [3, 3]: columns right, down, forward."""
        return Rotation.from_quat(self.wxyz[[1, 2, 3, 0]]).as_matrix()


@dataclass(frozen=True)
class Frame:
    """The way from world to viewer and back.

    Attributes:
        centre: [3] world; the viewer's origin.
        scale: viewer units per world unit, > 0.
        up: [3], length 1; the same in both.
    """

    centre: Vector
    scale: float
    up: Vector

    @classmethod
    def around(cls, cameras: Sequence[Camera], points: Tensor | None = None) -> Frame:
        """The frame of a set of cameras, or, without any, of the points alone.

        Args:
            cameras: may be empty.
            points: [P, 3] world; where the cameras' axes are parallel, these say how far away things are.
        """
        if cameras:
            centers, rotations = poses(cameras)
            centre = focus_point(cameras, points=points)
            distance = float(np.median(np.linalg.norm(centers - centre, axis=1)))
            depth = median_depth(cameras, points)
            if distance < _CLOSE * (depth or 0.0):  # they look outwards from one place
                distance = depth or 1.0
            return cls(centre, RADIUS / (distance or 1.0), upright(rotations))
        xyz = np.zeros((0, 3)) if points is None else points.detach().cpu().double().numpy()
        xyz = xyz[np.isfinite(xyz).all(1)]
        if not len(xyz):
            return cls(np.zeros(3), 1.0, _NO_CAMERAS_UP)
        centre = np.median(xyz, axis=0)
        reach = float(np.quantile(np.linalg.norm(xyz - centre, axis=1), 0.8))
        return cls(centre, 0.5 * RADIUS / (reach or 1.0), _NO_CAMERAS_UP)

    def to_viewer(self, world: NDArray[np.floating]) -> Array:
        """Positions [..., 3] in viewer units."""
        return (np.asarray(world, np.float64) - self.centre) * self.scale

    def to_world(self, viewer: NDArray[np.floating]) -> Array:
        """Positions [..., 3] in world units."""
        return np.asarray(viewer, np.float64) / self.scale + self.centre

    def pose(self, camera: Camera) -> Pose:
        """Where a camera stands. A principal point beside the centre is left out of account."""
        centers, rotations = poses([camera])
        fx, fy = float(camera.K[0, 0]), float(camera.K[1, 1])
        wide, high = camera.width / fx, camera.height / fy
        return Pose(
            self.to_viewer(centers[0]),
            _wxyz(rotations[0]),
            2 * math.atan(high / 2),
            wide / high,
        )

    def camera(self, pose: Pose, width: int, height: int) -> Camera:
        """The camera of `width` x `height` pixels that sees what stands before a browser's eyes."""
        viewmat = np.eye(4)
        viewmat[:3, :3] = pose.axes.T
        viewmat[:3, 3] = -pose.axes.T @ self.to_world(pose.position)
        focal = height / (2 * math.tan(pose.fov / 2))
        K = np.diag([focal, focal, 1.0])
        K[:2, 2] = width / 2, height / 2
        return Camera(torch.from_numpy(viewmat).float(), torch.from_numpy(K).float(), width, height)

    def first_look(self, camera: Camera | None) -> Pose:
        """A look at the centre from a little behind a camera; without one, from beside at twice the reach."""
        if camera is None:
            side = np.cross(self.up, [0.0, 0.0, 1.0]) if abs(self.up[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
            position = -np.cross(side / np.linalg.norm(side), self.up) * RADIUS
            fov, aspect = math.radians(50), _WINDOW
        else:
            stands = self.pose(camera)
            distance = float(np.linalg.norm(stands.position)) or RADIUS
            forward = stands.axes[:, 2]
            position = stands.position - _BACK * distance * forward + _UP * distance * self.up
            # a window is wide: no more of the scene's edges than the photograph shows
            fov = 2 * math.atan(math.tan(stands.fov / 2) * min(1.0, max(0.7, stands.aspect / _WINDOW)))
            aspect = _WINDOW
        towards = -position if np.linalg.norm(position) > 1e-9 else np.array([1.0, 0.0, 0.0])
        return Pose(position, _wxyz(look_along(towards, self.up)), fov, aspect)


def _wxyz(rotation: Array) -> Vector:
    """[4] quaternion of a rotation matrix [3, 3]."""
    return Rotation.from_matrix(rotation).as_quat()[[3, 0, 1, 2]]
