"""Small COLMAP scenes made on the spot, for the tests of the scene room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest


def look_rotation(angle: float) -> pycolmap.Rotation3d:
    """A turn about y by `angle` radians."""
    return pycolmap.Rotation3d(np.array([0.0, np.sin(angle / 2), 0.0, np.cos(angle / 2)]))


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image), path


def pattern(width: int, height: int, seed: int) -> np.ndarray:
    """A smooth BGR image whose mean identifies it."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack(
        [x * 255 / width, y * 255 / height, np.full_like(x, 20 * seed % 256, dtype=float)], axis=-1
    )
    return base.astype(np.uint8)


@pytest.fixture
def make_scene(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a COLMAP scene and returns its folder.

    Each track is a tuple of image numbers (from 0, in the order of `names`) that see its point.
    """

    def make(
        names: list[str] | int = 10,
        *,
        model: str = "PINHOLE",
        params: tuple[float, ...] = (50.0, 52.0, 31.0, 25.0),
        size: tuple[int, int] = (64, 48),
        tracks: list[tuple[int, ...]] | None = None,
        suffix: str = ".bin",
        at: str = "sparse/0",
        images: str | None = "images",
        folder: str = "scene",
    ) -> Path:
        names = [f"img_{i:02d}.png" for i in range(names)] if isinstance(names, int) else names
        tracks = [(i, (i + 1) % len(names)) for i in range(len(names))] if tracks is None else tracks
        source = tmp_path / folder
        reconstruction = pycolmap.Reconstruction()
        camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=list(params), camera_id=1)
        reconstruction.add_camera_with_trivial_rig(camera)
        for number, name in enumerate(names):
            seen = [t for t, track in enumerate(tracks) if number in track]
            image = pycolmap.Image(
                name=name,
                image_id=number + 1,
                camera_id=1,
                points2D=pycolmap.Point2DList([pycolmap.Point2D(np.array([1.0 + t, 2.0])) for t in seen]),
            )
            pose = pycolmap.Rigid3d(look_rotation(0.05 * number), np.array([-0.5 * number, 0.1, 0.2]))
            reconstruction.add_image_with_trivial_frame(image, pose)
        for t, track in enumerate(tracks):
            elements = []
            for number in dict.fromkeys(track):
                place = [k for k, other in enumerate(tracks) if number in other].index(t)
                elements.append(pycolmap.TrackElement(number + 1, place))
            xyz = np.array([0.1 * t, 0.0, 5.0])
            reconstruction.add_point3D(xyz, pycolmap.Track(elements), np.array([t % 256, 128, 255], np.uint8))
        (source / at).mkdir(parents=True, exist_ok=True)
        (reconstruction.write_binary if suffix == ".bin" else reconstruction.write_text)(str(source / at))
        if images is not None:
            for number, name in enumerate(names):
                write_image(source / images / name, pattern(*size, number))
        return source

    return make
