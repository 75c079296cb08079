"""The sparse model of the synthetic scene, written as COLMAP writes it.

Points stand where a feature detector would find them (strong image gradients), a little off the
true surface, and are observed only by views that truly see them and whose direction is near enough
for a descriptor to match.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from scene.synthetic.photograph import Station
from scene.synthetic.shapes import dot, unit
from scene.synthetic.textures import Array
from scene.synthetic.world import World

_BORDER = 3  # pixels from the picture's edge that detectors leave out
_POSITION_NOISE = 0.3  # pixels worth of error in a point's position, per axis
_OBSERVATION_NOISE = 0.2  # pixels of error in an observation, per axis
_MATCH_ANGLE = np.radians(28.0)  # view directions this far apart still match one time in e


def write_model(
    folder: Path,
    world: World,
    cameras: list[Station],
    images: list[NDArray[np.uint8]],
    depths: list[Array],
    points: int,
    rng: np.random.Generator,
) -> None:
    """Writes `cameras.bin`, `images.bin` and `points3D.bin` (one shared PINHOLE camera).

    Args:
        folder: Where to write; must exist.
        world: Decides what sees what.
        cameras: All cameras; image ids count them from 1.
        images: Their pictures [H, W, 3].
        depths: Their depth maps [H, W].
        points: Number of points wanted.
        rng: Picks points and errors.
    """
    xyz, rgb = _candidates(cameras, images, depths, 3 * points, rng)
    seen, spots = _matches(world, cameras, xyz, rng)
    keep = np.flatnonzero(seen.sum(0) >= 2)[:points]
    reconstruction = pycolmap.Reconstruction()
    first = cameras[0]
    parameters = [first.focal, first.focal, first.width / 2, first.height / 2]
    camera = pycolmap.Camera(
        model="PINHOLE", width=first.width, height=first.height, params=parameters, camera_id=1
    )
    reconstruction.add_camera_with_trivial_rig(camera)
    index = np.cumsum(seen[:, keep], axis=1) - 1  # row of each observation within its image
    for k, station in enumerate(cameras):
        rotation = station.rotation.astype(np.float64)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ station.center)
        mine = keep[seen[k, keep]]
        image = pycolmap.Image(
            name=station.name, keypoints=spots[k][:, mine].T.copy(), camera_id=1, image_id=k + 1
        )
        reconstruction.add_image_with_trivial_frame(image, pose)
    for column, point in enumerate(keep):
        track = pycolmap.Track()
        for observer in np.flatnonzero(seen[:, point]):
            track.add_element(int(observer) + 1, int(index[observer, column]))
        scale = _pixel_size(cameras, xyz[:, point], seen[:, point])
        noisy = xyz[:, point] + rng.normal(0, _POSITION_NOISE * scale, 3)
        reconstruction.add_point3D(noisy, track, rgb[point])
    reconstruction.update_point_3d_errors()
    reconstruction.write_binary(str(folder))


def _candidates(
    cameras: list[Station],
    images: list[NDArray[np.uint8]],
    depths: list[Array],
    count: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Surface points [3, P] with colours [P, 3], drawn from all views, more where the picture changes."""
    xyz, rgb = [], []
    each = -(-count // len(cameras))
    for camera, image, depth in zip(cameras, images, depths, strict=True):
        grey = image.astype(np.float32).mean(2)
        strength = np.hypot(*np.gradient(grey)) + 0.5
        strength[depth <= 0] = 0
        inner = np.zeros_like(strength)
        inside = (slice(_BORDER, -_BORDER),) * 2 if min(strength.shape) > 4 * _BORDER else (slice(None),) * 2
        inner[inside] = strength[inside]
        weight = inner.ravel() / inner.sum(dtype=np.float64)
        pick = rng.choice(weight.size, size=min(each, int(np.count_nonzero(weight))), replace=False, p=weight)
        y, x = np.divmod(pick, camera.width)
        ray = camera.rays((x + 0.5).astype(np.float32), (y + 0.5).astype(np.float32))
        xyz.append(camera.center[:, None] + ray.astype(np.float64) * depth[y, x])
        rgb.append(image[y, x])
    order = rng.permutation(sum(part.shape[1] for part in xyz))
    return np.concatenate(xyz, axis=1)[:, order], np.concatenate(rgb)[order]


def _matches(
    world: World, cameras: list[Station], xyz: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Which camera observes which point [C, P], and where (C arrays [2, P])."""
    seen, spots, directions = [], [], []
    for camera in cameras:
        spot, z = camera.project(xyz)
        inside = (z > 0) & (spot > _BORDER).all(0)
        inside &= (spot[0] < camera.width - _BORDER) & (spot[1] < camera.height - _BORDER)
        to = (xyz - camera.center[:, None]).astype(np.float32)
        distance = np.sqrt(dot(to, to))
        direction = unit(to)
        o = np.repeat(camera.center[:, None], to.shape[1], axis=1)
        first, _ = world.cast(o, direction)
        seen.append(inside & (np.abs(first - distance) < 2e-3 * distance))  # f32 and grazing incidence
        spots.append(spot + rng.normal(0, _OBSERVATION_NOISE, spot.shape))
        directions.append(direction)
    visible = np.stack(seen)
    source = visible.cumsum(0).astype(np.float64)  # the first camera that sees a point describes it
    reference = np.einsum("cp,cip->ip", ((source == 1) & visible).astype(np.float32), np.stack(directions))
    cosine = np.einsum("ip,cip->cp", reference, np.stack(directions)).clip(-1, 1)
    likely = np.exp(-((np.arccos(cosine) / _MATCH_ANGLE) ** 2))
    return visible & (rng.random(visible.shape) < np.maximum(likely, 1e-3)), spots


def _pixel_size(cameras: list[Station], p: NDArray[np.float64], seen: NDArray[np.bool_]) -> float:
    """Metres that one pixel covers at a point, in the nearest camera that observes it."""
    nearest = min(np.linalg.norm(p - cameras[k].center) / cameras[k].focal for k in np.flatnonzero(seen))
    return float(nearest)
