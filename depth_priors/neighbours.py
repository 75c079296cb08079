"""Which views help to find a view's depth, and between which depths to look.

Both are geometry: the angle under which two cameras see the same things decides how well depth can be
measured (too small: imprecise; too large: the views look different), and the points of structure from
motion say how far away things are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene import Points, View, focus_depth, project

BEST_ANGLE = 10.0
"""Degrees between two cameras, seen from the scene: closest to it is best."""
ANGLES = (1.0, 45.0)
"""Degrees outside of which a pair is of no use."""
ANGLE_SPREAD = 0.8
"""Standard deviation, in the logarithm of the angle, of how fast a pair gets worse."""
LEAST_OVERLAP = 0.15
"""Share of what a view sees that a neighbour must see too."""
PERCENTILES, MARGINS = (1.0, 99.0), (0.7, 1.4)
"""Of the depths of points, and factors for what lies nearer or farther than they do."""
FEWEST_POINTS = 12
"""Fewer points than this say nothing about the range of depths."""
SMALLEST = 16
"""Pixels of the shorter side below which a view neither gets depth nor gives it."""
FOCUS_RANGE = 5.0
"""Without points: depths from focus / 5 to focus x 5."""


@dataclass(frozen=True)
class Surroundings:
    """What stereo needs to know about one view."""

    neighbours: tuple[int, ...]
    """Indices of views, the most useful first; may be empty."""
    near: float
    """Camera z, world units, > 0."""
    far: float
    """Camera z, world units, > near."""
    points: NDArray[np.float64]
    """[n, 3], the points that it sees, world; may be empty."""


def look_around(views: Sequence[View], points: Points, most: int) -> list[Surroundings]:
    """Neighbours and depth range of each view.

    Args:
        views: The training views.
        points: The scene's; `seen` tells which views see which, else all points in the picture count.
        most: Neighbours of a view at most.
    """
    poses = [_Pose(view) for view in views]
    xyz = points.xyz.double().numpy()
    visible = [
        points.seen[:, i].numpy() if points.seen is not None else poses[i].inside(xyz)
        for i in range(len(views))
    ]
    focus = focus_depth(views)
    result = []
    for i, pose in enumerate(poses):
        own = xyz[visible[i] & (pose.depth(xyz) > 0)]
        near, far = _depth_range(pose.depth(own), focus)
        probes = own if len(own) >= FEWEST_POINTS else pose.grid(focus)
        scores = []
        for j, other in enumerate(poses):
            shared = xyz[visible[i] & visible[j]]
            large = min(pose.width, pose.height, other.width, other.height) >= SMALLEST
            score = _usefulness(pose, other, probes, shared) if i != j and large else 0.0
            if score > 0:
                scores.append((-score, j))
        neighbours = tuple(j for _, j in sorted(scores)[:most])
        result.append(Surroundings(neighbours, near, far, own))
    return result


class _Pose:
    """A view's camera in numpy."""

    def __init__(self, view: View) -> None:
        self.camera = view.camera
        self.viewmat = view.camera.viewmat.double().numpy()
        self.K = view.camera.K.double().numpy()
        self.width, self.height = view.camera.width, view.camera.height
        self.center = -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def depth(self, xyz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Camera z of points [n, 3]."""
        return xyz @ self.viewmat[2, :3] + self.viewmat[2, 3]

    def inside(self, xyz: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points [n, 3] lie in front of the camera and in its picture."""
        return project(self.camera, xyz).inside

    def grid(self, depth: float) -> NDArray[np.float64]:
        """World points [64, 3] at a camera z, spread over the picture."""
        u, v = np.meshgrid((np.arange(8) + 0.5) / 8 * self.width, (np.arange(8) + 0.5) / 8 * self.height)
        rays = np.stack([u.ravel(), v.ravel(), np.ones(64)], -1) @ np.linalg.inv(self.K).T
        return (rays * depth - self.viewmat[:3, 3]) @ self.viewmat[:3, :3]


def _depth_range(depths: NDArray[np.float64], focus: float) -> tuple[float, float]:
    if len(depths) < FEWEST_POINTS:
        return focus / FOCUS_RANGE, focus * FOCUS_RANGE
    low, high = np.percentile(depths, PERCENTILES)
    return float(low) * MARGINS[0], float(high) * MARGINS[1]


def _usefulness(pose: _Pose, other: _Pose, probes: NDArray[np.float64], shared: NDArray[np.float64]) -> float:
    """0 where `other` cannot help `pose`, else more for an angle near 10 degrees and much in common."""
    overlap = float(other.inside(probes).mean())
    seen_by_both = shared if len(shared) >= FEWEST_POINTS else probes[other.inside(probes)]
    if overlap < LEAST_OVERLAP or len(seen_by_both) == 0:
        return 0.0
    a, b = seen_by_both - pose.center, seen_by_both - other.center
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    angle = float(np.degrees(np.median(np.arccos(np.clip(cosine, -1.0, 1.0)))))
    if not ANGLES[0] <= angle <= ANGLES[1]:
        return 0.0
    return overlap * math.exp(-0.5 * (math.log(angle / BEST_ANGLE) / ANGLE_SPREAD) ** 2)
