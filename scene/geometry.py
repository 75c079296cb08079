"""How a set of cameras stands: what it looks at, which way is up, how far it reaches.

Everything returns something usable whatever comes in: one camera, equal cameras, parallel axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scene.camera import Camera
from scene.projection import project

Vector = NDArray[np.float64]  # [3]
Array = NDArray[np.float64]

_FORWARD_ANGLE = np.radians(40.0)  # a forward-facing capture (LLFF) spreads over 10 to 30 degrees
_FULL_CIRCLE_GAP = np.radians(100.0)  # an orbit with a wider gap is an arc: nobody saw it from there
_SAME = 1e-6  # relative distance below which two positions are one


def is_forward_facing(cameras: Sequence[Camera]) -> bool:
    """Whether the cameras look about the same way, so that a spiral in front of the scene suits them.

    True if nine of ten view directions lie within 40 degrees of their mean; always true for one camera.
    """
    forward = poses(cameras)[1][:, :, 2]
    mean = forward.mean(0)
    if np.linalg.norm(mean) < 0.1:
        return False
    angles = np.arccos(np.clip(forward @ unit(mean), -1.0, 1.0))
    return bool(np.quantile(angles, 0.9) < _FORWARD_ANGLE)


def looks_inward(cameras: Sequence[Camera]) -> bool:
    """Whether most cameras have the point that all look at well ahead of them, not amid themselves."""
    centers, rotations = poses(cameras)
    focus = _nearest_to_axes(centers, rotations[:, :, 2])
    if focus is None:
        return False
    ahead = ((focus - centers) * rotations[:, :, 2]).sum(1)
    return bool(np.mean(ahead > 0.3 * spread(centers)) > 0.7)


def focus_point(cameras: Sequence[Camera], *, points: Tensor | None = None) -> Vector:
    """The point [3] that the cameras look at.

    The least-squares point nearest to all optical axes; where they are (nearly) parallel or it lies
    behind the cameras, a point ahead of the mean camera, at the median depth of the scene's points, or,
    without points, at four times the cameras' spread (1 if they all stand at one place).
    """
    centers, rotations = poses(cameras)
    focus = _nearest_to_axes(centers, rotations[:, :, 2])
    if focus is not None and np.median(((focus - centers) * rotations[:, :, 2]).sum(1)) > 0:
        return focus
    middle = centers.mean(0)
    forward = mean_forward(rotations)
    depth = median_depth(cameras, points)
    if depth is None:
        depth = 4.0 * spread(centers) or 1.0
    return middle + depth * forward


def poses(cameras: Sequence[Camera]) -> tuple[Array, Array]:
    """Centres [C, 3] and camera-to-world rotations [C, 3, 3] in double, the rotations made exact."""
    if not cameras:
        raise ValueError("cameras: expected at least one, got none")
    viewmats = torch.stack([camera.viewmat.detach().cpu().double() for camera in cameras]).numpy()
    u, _, vt = np.linalg.svd(viewmats[:, :3, :3])
    rotations = (u @ vt).transpose(0, 2, 1)
    return -(rotations @ viewmats[:, :3, 3:])[..., 0], rotations


def unit(v: Vector) -> Vector:
    """The vector at length 1."""
    return v / np.linalg.norm(v)


def direction(v: Vector, otherwise: Vector, size: float = 1.0) -> Vector:
    """`v` at length 1, or `otherwise` where `v` is too short to have one: a thousandth of `size`."""
    return unit(v) if np.linalg.norm(v) > 1e-3 * size else unit(otherwise)


def spread(centers: Array) -> float:
    """The median distance of the cameras from their mean; 0 for cameras at one place."""
    middle = centers.mean(0)
    size = float(np.median(np.linalg.norm(centers - middle, axis=1)))
    return size if size > _SAME * (1.0 + float(np.abs(middle).max())) else 0.0


def _nearest_to_axes(centers: Array, forward: Array) -> Vector | None:
    """The point [3] with the least squared distance to all optical axes; None where they are parallel."""
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    system = across.mean(0)
    # the smallest eigenvalue is the mean squared sine between the axes and their common direction
    if np.linalg.eigvalsh(system)[0] < np.sin(np.radians(2.0)) ** 2:
        return None
    return np.linalg.solve(system, (across @ centers[:, :, None])[..., 0].mean(0))


def median_depth(cameras: Sequence[Camera], points: Tensor | None) -> float | None:
    """Median depth of the points in the cameras' pictures; None without such points."""
    if points is None or not len(points):
        return None
    xyz = points[:: max(1, len(points) // 20_000)].detach().cpu().numpy()
    found = [project(camera, xyz) for camera in cameras[:: max(1, len(cameras) // 16)]]
    seen = np.concatenate([at.z[at.inside] for at in found])
    return float(np.median(seen)) if len(seen) else None


def upright(rotations: Array) -> Vector:
    """The direction [3] that people held the cameras upright in.

    Upright cameras have horizontal right axes, so up is the direction least along any of them; the
    mean of the cameras' own up axes picks the sign, and decides alone where all right axes agree.
    """
    right, own = rotations[:, :, 0], -rotations[:, :, 1].mean(0)
    own = direction(own, -rotations[0, :, 1])
    scatter = right.T @ right / len(right)
    return unit(np.asarray(np.linalg.solve(scatter + 0.02 * np.eye(3), own), np.float64))


def angles_covered(angles: Array) -> tuple[float, float | None]:
    """First angle and width of the photographed part of a circle; width None if it is all of it."""
    order = np.sort(angles % (2 * np.pi))
    gaps = np.diff(np.append(order, order[0] + 2 * np.pi))
    widest = int(gaps.argmax())
    if gaps[widest] < _FULL_CIRCLE_GAP:
        return 0.0, None
    return float(order[(widest + 1) % len(order)]), float(2 * np.pi - gaps[widest])


def look_along(forward: Vector, up: Vector) -> Array:
    """Camera-to-world rotation [3, 3] that looks along `forward`, as upright as can be."""
    z = unit(forward)
    x = np.cross(z, up)
    if np.linalg.norm(x) < 1e-6:  # straight up or down: any right axis is as upright as any other
        x = np.cross(z, [1.0, 0.0, 0.0] if abs(z[0]) < 0.9 else [0.0, 1.0, 0.0])
    x = unit(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def typical_camera(cameras: Sequence[Camera]) -> Camera:
    """The camera with the median field of view, for intrinsics and size."""
    order = sorted(cameras, key=lambda camera: float(camera.K[0, 0]) / camera.width)
    return order[len(order) // 2]


def camera_at(rotation: Array, center: Vector, like: Camera) -> Camera:
    """A camera at `center` with camera-to-world `rotation` and the intrinsics of `like`."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ center
    return Camera(torch.from_numpy(viewmat).float(), like.K.detach().cpu(), like.width, like.height)


def mean_forward(rotations: Array) -> Vector:
    """The mean of the cameras' view directions, at length 1."""
    return direction(rotations[:, :, 2].mean(0), rotations[0, :, 2])


def ground_basis(up: Vector) -> Array:
    """Two unit vectors [3, 2] across `up` and each other."""
    side = direction(np.cross(up, [1.0, 0.0, 0.0]), np.cross(up, [0.0, 1.0, 0.0]))
    return np.stack([side, np.cross(up, side)], axis=1)
