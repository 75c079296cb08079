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
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline, Slerp
from torch import Tensor

from scene.camera import Camera
from scene.geometry import (
    Array,
    Vector,
    angles_covered,
    camera_at,
    direction,
    focus_point,
    ground_basis,
    is_forward_facing,
    look_along,
    looks_inward,
    mean_forward,
    median_depth,
    poses,
    spread,
    typical_camera,
    upright,
)

PathKind = Literal["spiral", "ellipse", "interpolated"]


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
    centers, rotations = poses(cameras)
    up = upright(rotations)
    middle = centers.mean(0)
    forward = mean_forward(rotations)
    depth = median_depth(cameras, points)
    if depth is None:
        depth = max(float((focus_point(cameras) - middle) @ forward), 1e-3)
    focus = middle + depth * forward
    axes = look_along(forward, up)
    radii = np.quantile(np.abs((centers - middle) @ axes), 0.8, axis=0)
    if np.linalg.norm(radii) < 1e-3 * depth:
        radii = 0.04 * depth * np.array([1.0, 1.0, 0.5])
    radii = np.minimum(radii, [0.5 * depth, 0.5 * depth, 0.3 * depth])
    angle = 2 * np.pi * turns * np.arange(n_frames) / n_frames
    offsets = np.stack([np.cos(angle), -np.sin(angle), -np.sin(angle / turns)], axis=1) * radii
    return _cameras(middle + offsets @ axes.T, [focus] * n_frames, up, typical_camera(cameras))


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
    centers, rotations = poses(cameras)
    up = upright(rotations)
    focus = focus_point(cameras, points=points)
    basis = ground_basis(up)
    flat, height = (centers - focus) @ basis, (centers - focus) @ up
    low, high = np.quantile(height, [0.2, 0.8])
    turn = 2 * np.pi * np.arange(n_frames) / n_frames
    start, width = angles_covered(np.arctan2(flat[:, 1], flat[:, 0]))
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
        focus + spots @ basis.T + heights[:, None] * up, [focus] * n_frames, up, typical_camera(cameras)
    )


def interpolated_path(cameras: Sequence[Camera], n_frames: int) -> list[Camera]:
    """A smooth flight through the given cameras in their order.

    Positions follow a cubic spline and rotations a rotation spline, both with continuous
    acceleration, at about even speed; two cameras are joined by a straight line and a SLERP.
    Neighbours with equal poses count once.
    """
    centers, rotations = poses(cameras)
    turns = np.array([Rotation.from_matrix(a.T @ b).magnitude() for a, b in pairwise(rotations)])
    scale = spread(centers) or 1.0
    # square root: centripetal knots, which keep cubic splines from overshooting between close cameras
    steps = np.sqrt(np.linalg.norm(np.diff(centers, axis=0), axis=1) / scale + turns)
    keep = np.concatenate([[True], steps > 1e-4])
    centers, rotations = centers[keep], rotations[keep]
    knots = np.concatenate([[0.0], np.cumsum(steps[keep[1:]])])
    typical = typical_camera(cameras)
    times = np.linspace(0.0, knots[-1], n_frames)
    if len(knots) == 1:
        spots, turned = np.repeat(centers, n_frames, axis=0), np.repeat(rotations, n_frames, axis=0)
    elif len(knots) == 2:
        spots = centers[0] + (centers[1] - centers[0]) * (times / knots[-1])[:, None]
        turned = Slerp(knots, Rotation.from_matrix(rotations))(times).as_matrix()
    else:
        spots = CubicSpline(knots, centers, bc_type="natural")(times)
        turned = RotationSpline(knots, Rotation.from_matrix(rotations))(times).as_matrix()
    return [camera_at(r, c, typical) for r, c in zip(turned, spots, strict=True)]


def _cameras(spots: Array, focus: Sequence[Vector], up: Vector, like: Camera) -> list[Camera]:
    across = ground_basis(up)[:, 0]  # for a spot on its focus
    return [
        camera_at(look_along(direction(target - spot, across, 1e-6), up), spot, like)
        for spot, target in zip(spots, focus, strict=True)
    ]
