"""Pseudo cameras: random new poses near the training cameras, for losses that need no photograph.

FSGS (Zhu et al. 2023) and its kin draw them where test cameras are likely. Which way suits a capture is
told by the cameras' geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from scene.camera import Camera
from scene.geometry import (
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
    typical_camera,
    upright,
)
from scene.view import View

PseudoKind = Literal["auto", "box", "orbit", "interpolated"]

NOISE = 0.05
"""interpolated: standard deviation of the position's noise, as a share of the two cameras' distance."""
TURN = 0.05
"""interpolated: of its rotation about each axis, as a share of the angle between the two."""
NEAREST = 3
"""interpolated: a camera's partner is one of so many nearest ones."""
EMPTY = 1e-9


class PseudoCameras:
    """Draws cameras near the training views.

    Args:
        views: the training views, at least one.
        kind: `box`: positions in the box of the cameras, in the mean camera's axes, looking at what they
            look at, for forward-facing captures; `orbit`: on the ellipse of the cameras around what they
            look at, where they photographed it; `interpolated`: between two near cameras, with noise.
            auto: box or orbit by how the cameras stand, else interpolated; and interpolated where there
            are fewer than three positions.
        points: [P, 3], the scene's, for the distance of what is looked at; None if unknown.
        reach: how far they go beyond the training cameras, at least 1: the box's size in boxes of the
            cameras; on an orbit distance and height change by up to half of reach - 1 of the distance;
            interpolated ones have so many times the noise.

    Raises:
        ValueError: there is no view.
    """

    kind: Literal["box", "orbit", "interpolated"]

    def __init__(
        self,
        views: Sequence[View],
        kind: PseudoKind = "auto",
        points: Tensor | None = None,
        *,
        reach: float = 1.0,
    ) -> None:
        self._reach, self._points = reach, points
        self._cameras = [view.camera for view in views]
        self._centers, self._rotations = poses(self._cameras)
        self._up = upright(self._rotations)
        self.kind = self._suitable() if kind == "auto" else kind
        self._like = typical_camera(self._cameras)
        if self.kind == "box":
            self._prepare_box(points)
        elif self.kind == "orbit":
            self._prepare_orbit(points)
        else:
            inward = looks_inward(self._cameras) and not is_forward_facing(self._cameras)
            self._pivot = focus_point(self._cameras, points=points) if inward else None

    def _suitable(self) -> Literal["box", "orbit", "interpolated"]:
        if len(np.unique(self._centers.round(9), axis=0)) < 3:
            return "interpolated"
        if is_forward_facing(self._cameras):
            return "box"
        return "orbit" if looks_inward(self._cameras) else "interpolated"

    def draw(self, generator: torch.Generator) -> Camera:
        """A new camera, on the CPU, of the size and lens of a typical training camera.

        Args:
            generator: CPU generator.
        """
        numbers = torch.rand(8, generator=generator, dtype=torch.float64).numpy()
        if self.kind == "box":
            return self._in_box(numbers)
        return self._on_orbit(numbers) if self.kind == "orbit" else self._between(numbers, generator)

    def _prepare_box(self, points: Tensor | None) -> None:
        self._middle = self._centers.mean(0)
        forward = mean_forward(self._rotations)
        self._axes = look_along(forward, self._up)
        depth = median_depth(self._cameras, points)
        if depth is None:
            depth = max(float((focus_point(self._cameras) - self._middle) @ forward), 1e-3)
        self._look_at(self._middle + depth * forward)
        offsets = (self._centers - self._middle) @ self._axes
        low, high = offsets.min(0), offsets.max(0)
        beyond = 0.5 * (self._reach - 1.0) * (high - low)
        self._low, self._high = low - beyond, high + beyond
        self._high[2] = min(self._high[2], 0.5 * depth)  # never beyond what is looked at

    def _in_box(self, numbers: NDArray[np.float64]) -> Camera:
        offset = self._low + (self._high - self._low) * numbers[:3]
        return self._looking(self._middle + self._axes @ offset)

    def _prepare_orbit(self, points: Tensor | None) -> None:
        self._look_at(focus_point(self._cameras, points=points))
        self._basis = ground_basis(self._up)
        flat = (self._centers - self._focus) @ self._basis
        self._heights = (self._centers - self._focus) @ self._up
        self._radii = np.linalg.norm(flat, axis=1)
        self._start, width = angles_covered(np.arctan2(flat[:, 1], flat[:, 0]))
        self._width = 2 * np.pi if width is None else width
        self._angles = (np.arctan2(flat[:, 1], flat[:, 0]) - self._start) % (2 * np.pi)

    def _on_orbit(self, numbers: NDArray[np.float64]) -> Camera:
        """Between the two cameras that are next by angle: radius and height are theirs, mixed."""
        angle = self._width * numbers[0]
        order = np.argsort(self._angles, kind="stable")
        at = int(np.searchsorted(self._angles[order], angle))
        before, after = order[(at - 1) % len(order)], order[at % len(order)]
        share = numbers[1]
        radius = max(float((1 - share) * self._radii[before] + share * self._radii[after]), EMPTY)
        height = (1 - share) * self._heights[before] + share * self._heights[after]
        away, up = (self._reach - 1.0) * (numbers[2:4] - 0.5)
        height, radius = height + up * radius, (1.0 + away) * radius
        turned = self._start + angle
        flat = radius * (self._basis @ np.array([np.cos(turned), np.sin(turned)]))
        return self._looking(self._focus + flat + height * self._up)

    def _between(self, numbers: NDArray[np.float64], generator: torch.Generator) -> Camera:
        first = min(int(numbers[0] * len(self._cameras)), len(self._cameras) - 1)
        distances = np.linalg.norm(self._centers - self._centers[first], axis=1)
        distances[first] = np.inf
        nearest = np.argsort(distances, kind="stable")[: min(NEAREST, len(self._cameras) - 1)]
        noise = self._reach * torch.randn(6, generator=generator, dtype=torch.float64).numpy()
        if not len(nearest):
            depth = median_depth(self._cameras, self._points) or 1.0
            return camera_at(self._rotations[0], self._centers[0] + 0.01 * depth * noise[:3], self._like)
        second = nearest[min(int(numbers[1] * len(nearest)), len(nearest) - 1)]
        ends = Rotation.from_matrix(self._rotations[[first, second]])
        rotation = Slerp([0.0, 1.0], ends)(numbers[2])
        angle = (ends[0].inv() * ends[1]).magnitude()
        jitter = Rotation.from_rotvec(TURN * angle * noise[3:])
        center = self._on_the_way(self._centers[first], self._centers[second], numbers[2])
        center = center + NOISE * distances[second] * noise[:3]
        return camera_at((jitter * rotation).as_matrix(), center, self._cameras[first])

    def _on_the_way(
        self, a: NDArray[np.float64], b: NDArray[np.float64], share: float
    ) -> NDArray[np.float64]:
        """A place between two; around what inward-looking cameras look at, not through it."""
        straight = (1 - share) * a + share * b
        if self._pivot is None:
            return straight
        reach = (1 - share) * np.linalg.norm(a - self._pivot) + share * np.linalg.norm(b - self._pivot)
        return self._pivot + reach * direction(straight - self._pivot, self._up, float(reach))

    def _look_at(self, focus: NDArray[np.float64]) -> None:
        self._focus = focus
        self._far = float(np.linalg.norm(focus - self._centers, axis=1).max())

    def _looking(self, spot: NDArray[np.float64]) -> Camera:
        forward = direction(self._focus - spot, self._up, self._far)
        return camera_at(look_along(forward, self._up), spot, self._like)
