"""Cameras of the synthetic scene and the pictures that they take.

A pixel's colour is the mean over a grid of sub-pixel rays, averaged in linear light after the
highlights are rolled off; its depth is that of the ray through the pixel's centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene.synthetic.lighting import LightMap, Window, shade, sky
from scene.synthetic.shapes import dot
from scene.synthetic.textures import Array
from scene.synthetic.world import World

# Rays of a pixel, from its centre: the centre itself, for depth; then a rotated square, for colour,
# whose rows and columns all differ, so that near-horizontal and near-vertical edges are smooth too.
_OFFSETS = np.array([[0, 0], [0.125, 0.375], [-0.375, 0.125], [-0.125, -0.375], [0.375, -0.125]])
_DEPTH_ONLY = -2
_TILE = 48  # pixels along each side of a tile: rays of a tile see few solids, and its arrays fit the L2 cache
_FOCAL = 0.92  # focal length over picture width: 57 degrees across
_SPREAD = np.radians(64.0)  # cameras stand this far to either side of straight in front


@dataclass(frozen=True)
class Station:
    """One pinhole camera: OpenCV axes, pixel centre at +0.5.

    Attributes:
        name: File name of its picture.
        rotation: [3, 3] world to camera.
        center: [3] position in the world.
        focal: Focal length in pixels; the principal point is the middle of the picture.
        width: Picture width in pixels.
        height: Picture height in pixels.
    """

    name: str
    rotation: Array
    center: Array
    focal: float
    width: int
    height: int

    def rays(self, x: Array, y: Array) -> Array:
        """World directions [3, M] with camera-space z = 1 through pixel positions x, y [M]."""
        d = np.stack([(x - self.width / 2) / self.focal, (y - self.height / 2) / self.focal, np.ones_like(x)])
        return self.rotation.T @ d.astype(np.float32)

    def project(self, p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel positions [2, M] and camera-space z [M] of world points [3, M]."""
        q = self.rotation.astype(np.float64) @ (p - self.center[:, None])
        middle = np.array([[self.width / 2], [self.height / 2]])
        return q[:2] / q[2] * self.focal + middle, q[2]


def stations(n: int, width: int, height: int, rng: np.random.Generator) -> list[Station]:
    """Cameras on an arc around the table, with slightly shaken position, aim and roll."""
    place = np.linspace(-1.0, 1.0, n)
    # --eval holds out every 8th, from the first: none of those stands at an end of the arc
    place[[0, 1]] = place[[1, 0]]
    if n > 8 and (n - 1) % 8 == 0:
        place[[-1, -2]] = place[[-2, -1]]
    out = []
    for k, s in enumerate(place):
        angle = s * _SPREAD + rng.normal(0, 0.02)
        lift = 0.62 + 0.3 * np.sin(1.9 * np.pi * s * max(1.0, n / 8) + 0.6) + rng.normal(0, 0.03)
        distance = 1.95 + rng.normal(0, 0.06)
        center = np.array([distance * np.sin(angle), -distance * np.cos(angle), lift])
        aim = rng.normal(0, 0.03, 3) + np.array([0.0, 0.02, 0.04]) - center
        z = aim / np.linalg.norm(aim)
        x = np.cross(z, [np.sin(rng.normal(0, 0.02)), 0.0, 1.0])
        x /= np.linalg.norm(x)
        rotation = np.stack([x, np.cross(z, x), z]).astype(np.float32)
        out.append(
            Station(f"view_{k:03d}.png", rotation, center.astype(np.float32), _FOCAL * width, width, height)
        )
    return out


def photograph(
    world: World, maps: list[LightMap], window: Window, camera: Station
) -> tuple[NDArray[np.uint8], Array]:
    """One picture: sRGB [H, W, 3] uint8 and camera-space depth [H, W] in metres (0 = nothing)."""
    image = np.empty((camera.height, camera.width, 3), np.float32)
    depth = np.empty((camera.height, camera.width), np.float32)
    for top in range(0, camera.height, _TILE):
        for left in range(0, camera.width, _TILE):
            rows = slice(top, min(top + _TILE, camera.height))
            columns = slice(left, min(left + _TILE, camera.width))
            tile = _tile(world, maps, window, camera, rows, columns)
            image[rows, columns], depth[rows, columns] = tile
    srgb = np.where(image <= 0.0031308, image * 12.92, 1.055 * np.maximum(image, 1e-9) ** (1 / 2.4) - 0.055)
    return (np.clip(srgb, 0, 1) * 255 + 0.5).astype(np.uint8), depth


def _tile(
    world: World, maps: list[LightMap], window: Window, camera: Station, rows: slice, columns: slice
) -> tuple[Array, Array]:
    """Linear colour [h, w, 3] and depth [h, w] of a part of the picture."""
    h, w, g = rows.stop - rows.start, columns.stop - columns.start, len(_OFFSETS)
    # a pixel's rays lie together: [h, w, g]
    y = (np.arange(rows.start, rows.stop)[:, None, None] + 0.5 + _OFFSETS[:, 1]).astype(np.float32)
    x = (np.arange(columns.start, columns.stop)[:, None] + 0.5 + _OFFSETS[:, 0]).astype(np.float32)
    x, y = (np.broadcast_to(v, (h, w, g)).ravel() for v in (x, y))
    d = camera.rays(x, y)
    length = np.sqrt(dot(d, d))
    d /= length
    o = np.repeat(camera.center[:, None], d.shape[1], axis=1)
    distance, hit = world.cast(o, d, beam=True)
    z = np.where(hit >= 0, distance / length, 0).reshape(h, w, g)[:, :, 0]
    hit.reshape(-1, g)[:, 0] = _DEPTH_ONLY
    color = sky(d)
    for k in np.unique(hit[hit >= 0]):
        mine = np.flatnonzero(hit == k)
        p = o[:, mine] + d[:, mine] * distance[mine]
        color[:, mine] = shade(world.solids[k], maps[k], window, p, d[:, mine])
    shoulder = np.float32(0.75)
    over = np.maximum(color - shoulder, 0) / (1 - shoulder)
    color = np.minimum(color, shoulder) + (1 - shoulder) * (1 - np.exp(-over))
    return color.reshape(3, h, w, g)[..., 1:].mean(3).transpose(1, 2, 0), z
