"""Camera paths for novel-view videos: spiral, ellipse, and smooth interpolation.

Only geometry decides: what the cameras look at, how they stand, which way is up. Every path returns
rigid cameras whatever comes in: one camera, equal cameras, parallel axes, cameras in a row. Where a
path needs a scale that the cameras do not tell (a single one), the scene's points tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline, Slerp
from torch import Tensor

from scene.camera import Camera

Vector = NDArray[np.float64]  # [3]
Array = NDArray[np.float64]
PathKind = Literal["spiral", "ellipse", "interpolated"]

_FORWARD_ANGLE = np.radians(40.0)  # a forward-facing capture (LLFF) spreads over 10 to 30 degrees
_FULL_CIRCLE_GAP = np.radians(100.0)  # an orbit with a wider gap is an arc: nobody saw it from there
_SAME = 1e-6  # relative distance below which two positions are one


def is_forward_facing(cameras: Sequence[Camera]) -> bool:
    """Whether the cameras look about the same way, so that a spiral in front of the scene suits them.

    True if nine of ten view directions lie within 40 degrees of their mean; always true for one camera.
    """
    forward = _poses(cameras)[1][:, :, 2]
    mean = forward.mean(0)
    if np.linalg.norm(mean) < 0.1:
        return False
    angles = np.arccos(np.clip(forward @ _unit(mean), -1.0, 1.0))
    return bool(np.quantile(angles, 0.9) < _FORWARD_ANGLE)


def looks_inward(cameras: Sequence[Camera]) -> bool:
    """Whether most cameras have the point that all look at well ahead of them, not amid themselves."""
    centers, rotations = _poses(cameras)
    focus = _nearest_to_axes(centers, rotations[:, :, 2])
    if focus is None:
        return False
    ahead = ((focus - centers) * rotations[:, :, 2]).sum(1)
    return bool(np.mean(ahead > 0.3 * _spread(centers)) > 0.7)


def default_path(
    cameras: Sequence[Camera], n_frames: int, *, points: Tensor | None = None
) -> tuple[PathKind, list[Camera]]:
    """The path that suits the capture.

    A spiral for forward-facing captures, an ellipse (or an arc) around what inward-looking cameras
    look at, else a flight through the cameras.

    Args:
        cameras: At least one, in the order of the capture.
        n_frames: Number of cameras wanted, at least 1.
        points: [P, 3] scene points, to find the depth of what is looked at; None if unknown.

    Returns:
        The path's name and its cameras.
    """
    if is_forward_facing(cameras):
        return "spiral", spiral_path(cameras, n_frames, points=points)
    if looks_inward(cameras):
        return "ellipse", ellipse_path(cameras, n_frames, points=points)
    return "interpolated", interpolated_path(cameras, n_frames)


def camera_path(
    kind: PathKind | Literal["auto"],
    cameras: Sequence[Camera],
    n_frames: int,
    *,
    points: Tensor | None = None,
) -> tuple[PathKind, list[Camera]]:
    """The path of that name, or for "auto" the one that suits; arguments and result as `default_path`."""
    if kind == "auto":
        return default_path(cameras, n_frames, points=points)
    if kind == "interpolated":
        return kind, interpolated_path(cameras, n_frames)
    path = spiral_path if kind == "spiral" else ellipse_path
    return kind, path(cameras, n_frames, points=points)


def focus_point(cameras: Sequence[Camera], *, points: Tensor | None = None) -> Vector:
    """The point [3] that the cameras look at.

    The least-squares point nearest to all optical axes; where they are (nearly) parallel or it lies
    behind the cameras, a point ahead of the mean camera, at the median depth of the scene's points, or,
    without points, at four times the cameras' spread (1 if they all stand at one place).
    """
    centers, rotations = _poses(cameras)
    focus = _nearest_to_axes(centers, rotations[:, :, 2])
    if focus is not None and np.median(((focus - centers) * rotations[:, :, 2]).sum(1)) > 0:
        return focus
    middle = centers.mean(0)
    forward = _direction(rotations[:, :, 2].mean(0), rotations[0, :, 2])
    depth = _median_depth(cameras, points)
    if depth is None:
        depth = 4.0 * _spread(centers) or 1.0
    return middle + depth * forward


def spiral_path(
    cameras: Sequence[Camera], n_frames: int, *, points: Tensor | None = None, turns: int = 2
) -> list[Camera]:
    """A closed spiral around the mean camera that keeps looking at the focus; for forward-facing captures.

    Its radii along the mean camera's axes are the 80th percentile of the cameras' offsets; a single
    camera moves by 4 % of the depth that it looks at.

    Args:
        cameras: At least one.
        n_frames: Number of cameras wanted.
        points: [P, 3] scene points, for the depth of the focus; None if unknown.
        turns: Turns of the spiral.
    """
    centers, rotations = _poses(cameras)
    up = _up(rotations)
    middle = centers.mean(0)
    forward = _direction(rotations[:, :, 2].mean(0), rotations[0, :, 2])
    depth = _median_depth(cameras, points)
    if depth is None:
        depth = max(float((focus_point(cameras) - middle) @ forward), 1e-3)
    focus = middle + depth * forward
    axes = _look(forward, up)
    radii = np.quantile(np.abs((centers - middle) @ axes), 0.8, axis=0)
    if np.linalg.norm(radii) < 1e-3 * depth:
        radii = 0.04 * depth * np.array([1.0, 1.0, 0.5])
    radii = np.minimum(radii, [0.5 * depth, 0.5 * depth, 0.3 * depth])
    angle = 2 * np.pi * turns * np.arange(n_frames) / n_frames
    offsets = np.stack([np.cos(angle), -np.sin(angle), -np.sin(angle / turns)], axis=1) * radii
    return _cameras(middle + offsets @ axes.T, [focus] * n_frames, up, _typical(cameras))


def ellipse_path(cameras: Sequence[Camera], n_frames: int, *, points: Tensor | None = None) -> list[Camera]:
    """A closed ride around what the cameras look at; for inward-looking captures.

    A full orbit gives an ellipse through the cameras' 90th percentiles; if some side was not
    photographed (a gap of 100 degrees or more), the ride swings to and fro over the part that was.
    Heights swing between the cameras' 20th and 80th percentile.

    Args:
        cameras: At least one.
        n_frames: Number of cameras wanted.
        points: [P, 3] scene points, for the focus of cameras with parallel axes; None if unknown.
    """
    centers, rotations = _poses(cameras)
    up = _up(rotations)
    focus = focus_point(cameras, points=points)
    side = _direction(np.cross(up, [1.0, 0.0, 0.0]), np.cross(up, [0.0, 1.0, 0.0]))
    basis = np.stack([side, np.cross(up, side)], axis=1)  # [3, 2]
    flat, height = (centers - focus) @ basis, (centers - focus) @ up
    low, high = np.quantile(height, [0.2, 0.8])
    turn = 2 * np.pi * np.arange(n_frames) / n_frames
    start, width = _covered(np.arctan2(flat[:, 1], flat[:, 0]))
    if width is None:
        _, _, vt = np.linalg.svd(flat - flat.mean(0), full_matrices=True)
        reach = np.maximum(np.quantile(np.abs(flat @ vt.T), 0.9, axis=0), 1e-6)
        spots = (np.stack([np.cos(turn), np.sin(turn)], axis=1) * reach) @ vt
    else:
        radius = max(float(np.median(np.linalg.norm(flat, axis=1))), 1e-6)
        angle = start + width * (0.5 - 0.5 * np.cos(turn))
        spots = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    heights = (low + high) / 2 + (high - low) / 2 * np.sin(2 * turn)
    return _cameras(
        focus + spots @ basis.T + heights[:, None] * up, [focus] * n_frames, up, _typical(cameras)
    )


def interpolated_path(cameras: Sequence[Camera], n_frames: int) -> list[Camera]:
    """A smooth flight through the given cameras in their order.

    Positions follow a cubic spline and rotations a rotation spline, both with continuous
    acceleration, at about even speed; two cameras are joined by a straight line and a SLERP.
    Neighbours with equal poses count once.
    """
    centers, rotations = _poses(cameras)
    turns = np.array([Rotation.from_matrix(a.T @ b).magnitude() for a, b in pairwise(rotations)])
    scale = _spread(centers) or 1.0
    # square root: centripetal knots, which keep cubic splines from overshooting between close cameras
    steps = np.sqrt(np.linalg.norm(np.diff(centers, axis=0), axis=1) / scale + turns)
    keep = np.concatenate([[True], steps > 1e-4])
    centers, rotations = centers[keep], rotations[keep]
    knots = np.concatenate([[0.0], np.cumsum(steps[keep[1:]])])
    typical = _typical(cameras)
    times = np.linspace(0.0, knots[-1], n_frames)
    if len(knots) == 1:
        spots, turned = np.repeat(centers, n_frames, axis=0), np.repeat(rotations, n_frames, axis=0)
    elif len(knots) == 2:
        spots = centers[0] + (centers[1] - centers[0]) * (times / knots[-1])[:, None]
        turned = Slerp(knots, Rotation.from_matrix(rotations))(times).as_matrix()
    else:
        spots = CubicSpline(knots, centers, bc_type="natural")(times)
        turned = RotationSpline(knots, Rotation.from_matrix(rotations))(times).as_matrix()
    return [_camera(r, c, typical) for r, c in zip(turned, spots, strict=True)]


def _poses(cameras: Sequence[Camera]) -> tuple[Array, Array]:
    """Centres [C, 3] and camera-to-world rotations [C, 3, 3] in double, the rotations made exact."""
    if not cameras:
        raise ValueError("cameras: expected at least one, got none")
    viewmats = torch.stack([camera.viewmat.detach().cpu().double() for camera in cameras]).numpy()
    u, _, vt = np.linalg.svd(viewmats[:, :3, :3])
    rotations = (u @ vt).transpose(0, 2, 1)
    return -(rotations @ viewmats[:, :3, 3:])[..., 0], rotations


def _unit(v: Vector) -> Vector:
    return v / np.linalg.norm(v)


def _direction(v: Vector, otherwise: Vector) -> Vector:
    """`v` at length 1, or `otherwise` where `v` is too short to have a direction."""
    return _unit(v) if np.linalg.norm(v) > 1e-3 else _unit(otherwise)


def _spread(centers: Array) -> float:
    """The median distance of the cameras from their mean; 0 for cameras at one place."""
    middle = centers.mean(0)
    spread = float(np.median(np.linalg.norm(centers - middle, axis=1)))
    return spread if spread > _SAME * (1.0 + float(np.abs(middle).max())) else 0.0


def _nearest_to_axes(centers: Array, forward: Array) -> Vector | None:
    """The point [3] with the least squared distance to all optical axes; None where they are parallel."""
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    system = across.mean(0)
    # the smallest eigenvalue is the mean squared sine between the axes and their common direction
    if np.linalg.eigvalsh(system)[0] < np.sin(np.radians(2.0)) ** 2:
        return None
    return np.linalg.solve(system, (across @ centers[:, :, None])[..., 0].mean(0))


def _median_depth(cameras: Sequence[Camera], points: Tensor | None) -> float | None:
    """Median depth of the points in the cameras' pictures; None without such points."""
    if points is None or not len(points):
        return None
    xyz = points.detach().cpu().double()
    xyz = xyz[:: max(1, len(xyz) // 20_000)]
    depths = []
    for camera in cameras[:: max(1, len(cameras) // 16)]:
        local = xyz @ camera.viewmat[:3, :3].cpu().double().T + camera.viewmat[:3, 3].cpu().double()
        pixel = local @ camera.K.cpu().double().T
        inside = (pixel[:, 2] > 0) & torch.isfinite(pixel).all(1)
        inside &= (pixel[:, :2] > 0).all(1) & (pixel[:, 0] < camera.width * pixel[:, 2])
        inside &= pixel[:, 1] < camera.height * pixel[:, 2]
        depths.append(local[inside, 2])
    seen = torch.cat(depths)
    return float(seen.median()) if len(seen) else None


def _up(rotations: Array) -> Vector:
    """The direction [3] that people held the cameras upright in.

    Upright cameras have horizontal right axes, so up is the direction least along any of them; the
    mean of the cameras' own up axes picks the sign, and decides alone where all right axes agree.
    """
    right, own = rotations[:, :, 0], -rotations[:, :, 1].mean(0)
    own = _direction(own, -rotations[0, :, 1])
    scatter = right.T @ right / len(right)
    return _unit(np.linalg.solve(scatter + 0.02 * np.eye(3), own))


def _covered(angles: Array) -> tuple[float, float | None]:
    """First angle and width of the photographed part of a circle; width None if it is all of it."""
    order = np.sort(angles % (2 * np.pi))
    gaps = np.diff(np.append(order, order[0] + 2 * np.pi))
    widest = int(gaps.argmax())
    if gaps[widest] < _FULL_CIRCLE_GAP:
        return 0.0, None
    return float(order[(widest + 1) % len(order)]), float(2 * np.pi - gaps[widest])


def _look(forward: Vector, up: Vector) -> Array:
    """Camera-to-world rotation [3, 3] that looks along `forward`, as upright as can be."""
    z = _unit(forward)
    x = np.cross(z, up)
    if np.linalg.norm(x) < 1e-6:  # straight up or down: any right axis is as upright as any other
        x = np.cross(z, [1.0, 0.0, 0.0] if abs(z[0]) < 0.9 else [0.0, 1.0, 0.0])
    x = _unit(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def _typical(cameras: Sequence[Camera]) -> Camera:
    """The camera with the median field of view, for intrinsics and size."""
    order = sorted(cameras, key=lambda camera: float(camera.K[0, 0]) / camera.width)
    return order[len(order) // 2]


def _cameras(spots: Array, focus: Sequence[Vector], up: Vector, like: Camera) -> list[Camera]:
    out = []
    for spot, target in zip(spots, focus, strict=True):
        to = target - spot
        forward = to if np.linalg.norm(to) > 1e-9 else np.cross(up, [up[1], up[2], up[0]])
        out.append(_camera(_look(_direction(forward / (np.linalg.norm(forward) or 1.0), up), up), spot, like))
    return out


def _camera(rotation: Array, center: Vector, like: Camera) -> Camera:
    """A camera at `center` with camera-to-world `rotation` and the intrinsics of `like`."""
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ center
    return Camera(torch.from_numpy(viewmat).float(), like.K.detach().cpu(), like.width, like.height)
