"""Coarse-to-fine training images: small at first, which is fast, then up to their full size.

Most of what the first iterations learn (where things are, how large, which colour) shows in a small
image as well, and an image of half the width takes a quarter of the pixels. The idea is old in
reconstruction; for Gaussians see DashGaussian (Chen et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from scene.images import shrink_view
from scene.scene_error import SceneError
from scene.view import View

STEPS_PER_OCTAVE = 2
"""Sizes between one and its half: the images grow in steps of the square root of 2."""

SMALLEST_SIDE = 32
"""Pixels below which no side of an image is shrunk: an SSIM window is 11 pixels wide."""


@dataclass(frozen=True)
class PyramidConfig:
    """How small the first training images are, and for how long."""

    factor: float = 1.0
    """Training begins with images this many times smaller per side and enlarges them step by step; 1 = full
    size from the start."""
    until: int = field(default=0, metadata={"unit": "iterations"})
    """Iterations after which the images have their full size."""

    def __post_init__(self) -> None:
        """Refuses values with no meaning.

        Raises:
            SceneError: names the field.
        """
        if not 1.0 <= self.factor <= 64.0:
            raise SceneError(f"factor: expected a number from 1 to 64, got {self.factor}")
        if self.until < 0:
            raise SceneError(f"until: expected at least 0 iterations, got {self.until}")

    def check(self) -> None:
        """Refuses a final configuration in which one of the two fields has no effect.

        Raises:
            SceneError: smaller images are wanted for no iteration.
        """
        if self.factor > 1.0 and self.until == 0:
            raise SceneError(
                "pyramid.until: expected at least 1 iteration with pyramid.factor above 1, got 0; "
                "add --pyramid.until, for instance a third of --iterations"
            )

    def reduction(self, iteration: int) -> float:
        """How many times smaller per side the images of an iteration (from 1) are: `factor` to 1.

        Log-linear in the iteration, rounded up to steps of sqrt(2).
        """
        if iteration > self.until or self.factor <= 1.0:
            return 1.0
        octaves = math.log2(self.factor) * (1.0 - (iteration - 1) / self.until)
        return min(self.factor, 2.0 ** (math.ceil(octaves * STEPS_PER_OCTAVE - 1e-9) / STEPS_PER_OCTAVE))

    def size(self, width: int, height: int, iteration: int) -> tuple[int, int]:
        """Width and height at which an iteration (from 1) sees a picture of this size."""
        limited = max(1.0, min(self.reduction(iteration), min(width, height) / SMALLEST_SIDE))
        return max(1, round(width / limited)), max(1, round(height / limited))


class ImagePyramid:
    """The training views at the size that an iteration wants.

    Views of the present size are kept, those of sizes that are past are dropped.
    """

    def __init__(self, views: Sequence[View], config: PyramidConfig) -> None:
        self.views = list(views)
        self.config = config
        self._reduction = 1.0
        self._shrunk: dict[int, View] = {}

    def view(self, index: int, iteration: int) -> View:
        """Training view `index` for an iteration (from 1)."""
        reduction = self.config.reduction(iteration)
        full = self.views[index]
        if reduction == 1.0:
            self._shrunk.clear()
            return full
        if reduction != self._reduction:
            self._shrunk.clear()
            self._reduction = reduction
        if index not in self._shrunk:
            size = self.config.size(full.camera.width, full.camera.height, iteration)
            self._shrunk[index] = shrink_view(full, *size)
        return self._shrunk[index]
