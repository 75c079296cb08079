"""What a user may choose about reading a scene; every field is an option of the commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scene.scene_error import SceneError

AlphaMode = Literal["auto", "mask", "background"]

DIVISORS = (1, 2, 4, 8)
"""Values of `resolution` that divide; every other positive value is a width in pixels (the 3DGS habit)."""

AUTO_WIDTH = 1600
"""Widest image that `resolution = -1` leaves alone, in pixels (the 3DGS default)."""

MIN_WIDTH = 16
"""Smallest target width; below it `resolution` was surely meant as a divisor."""


@dataclass(frozen=True)
class SceneConfig:
    """Options of `load_scene`.

    Raises:
        SceneError: From `check`, for a value that no scene could satisfy.
    """

    images: str = ""
    """Folder of the images, relative to the scene ("" = `images`, or `images_N` where there is one for
    `resolution` N)."""
    masks: str = ""
    """Folder of the masks, relative to the scene ("" = `masks` if there is one); black pixels are ignored."""
    resolution: int = -1
    """1, 2, 4 or 8 divide the size; -1 divides so that the width is at most 1600; other values are the
    width in pixels."""
    eval: bool = False
    """Hold out every `test_every`-th image (sorted by name) as a test view."""
    test_every: int = 8
    """Which images `eval` holds out: 0, n, 2n, ... in the order of their names."""
    n_views: int = 0
    """Train on this many views only, spread evenly over the training images by name (0 = all)."""
    skip_missing: bool = False
    """Leave out images that the model names and the folder lacks, instead of stopping."""
    alpha_mode: AlphaMode = "auto"
    """Alpha channel: `mask` ignores transparent pixels, `background` composites over the model's background
    colour; `auto` is `background` for transforms.json scenes and `mask` for COLMAP ones."""

    def check(self) -> None:
        """Refuses values that are wrong for every scene."""
        if self.resolution not in (-1, *DIVISORS) and self.resolution < MIN_WIDTH:
            raise SceneError(
                f"resolution: expected -1, 1, 2, 4, 8 or a width of at least {MIN_WIDTH} pixels, "
                f"got {self.resolution}; choose one of these"
            )
        if self.test_every < 2:
            raise SceneError(
                f"test_every: expected 2 or more, got {self.test_every}; below, no image is left to train on"
            )
        if self.n_views < 0:
            raise SceneError(f"n_views: expected 0 (all) or more, got {self.n_views}; give a number")
        if self.alpha_mode not in ("auto", "mask", "background"):
            raise SceneError(
                f"alpha_mode: expected auto, mask or background, got {self.alpha_mode!r}; choose one of these"
            )
