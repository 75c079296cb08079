"""What every scene format is read into, before any image is opened.

A `Frame` is one image: its name, lens, pose and files. COLMAP's camera class stands for every lens,
because it knows every model; JSON scenes are turned into one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from scene.scene_error import SceneError
from scene.view import output_stem


@dataclass(frozen=True)
class Lens:
    """Intrinsics with distortion, known either in pixels or as a field of view."""

    key: Hashable
    """Frames with the same key share the lens (and its undistortion maps)."""
    label: str
    """File and camera, for messages."""
    camera: pycolmap.Camera | None
    """In pixels of its own width and height; None where only the angles are known."""
    angles: tuple[float, float | None] = (0.0, None)
    """Horizontal and vertical field of view in radians; used where `camera` is None."""

    def at(self, width: int, height: int) -> pycolmap.Camera:
        """The camera, at the image's size where its own is unknown."""
        if self.camera is not None:
            return self.camera
        fx = 0.5 * width / math.tan(0.5 * self.angles[0])
        fy = fx if self.angles[1] is None else 0.5 * height / math.tan(0.5 * self.angles[1])
        return pycolmap.Camera(
            model="PINHOLE", width=width, height=height, params=[fx, fy, width / 2, height / 2], camera_id=1
        )


@dataclass(frozen=True)
class Frame:
    """One registered image."""

    name: str
    lens: Lens
    viewmat: NDArray[np.float64]
    """[4, 4] world-to-camera, OpenCV axes, an exact rotation."""
    image: Path | None
    """None where the folder lacks it."""
    mask: Path | None = None
    held_out: bool | None = None
    """Whether the scene itself calls this a test image (Blender); None where it does not say."""


@dataclass(frozen=True)
class SceneModel:
    """A scene without its pixels."""

    frames: tuple[Frame, ...]
    """Sorted by name."""
    xyz: NDArray[np.float32]
    """[P, 3]."""
    rgb: NDArray[np.uint8]
    """[P, 3]."""
    observations: dict[str, NDArray[np.int64]] | None
    """Rows of `xyz` that each image observes; None where the format has no tracks."""
    images_at: str
    """The folder that images were looked for in, for messages."""
    alpha_is_background: bool
    """What `alpha_mode = auto` means for this format."""


_LONGEST_STEM = 220  # bytes; a file's name has 255, of which an ending and a write's temporary name take some


def check_names(frames: list[Frame], where: str) -> None:
    """Refuses two images of one name, of one output name, or of one file, and names too long to write.

    Raises:
        SceneError: Naming the two, or the one.
    """
    for values in (
        Counter(frame.name for frame in frames),
        Counter(output_stem(frame.name) for frame in frames),
        Counter(str(frame.image) for frame in frames if frame.image is not None),
    ):
        twice = [value for value, count in values.items() if count > 1]
        if twice:
            raise SceneError(f"{where}: two images are called {twice[0]!r}; rename one in folder and model")
    for frame in frames:
        if len(output_stem(frame.name).encode("utf-8", "surrogatepass")) > _LONGEST_STEM:
            raise SceneError(
                f"{where}: image {frame.name[:80]!r}...: folders and name together are longer than a file's "
                "name may be, and renders are named so; shorten them in folder and model"
            )
