"""Light of the synthetic scene: soft window light and a sky with one bounce, baked into charts.

Diffuse light does not depend on the viewer, so it is gathered once per surface texel with many
shadow rays, and looked up by every view: noise-free soft shadows for the price of a few megapixels
of rays. Only highlights are computed per view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from scene.synthetic.shapes import NDInt, Solid, dot, unit
from scene.synthetic.textures import Array, paint
from scene.synthetic.world import World

_SIDE = 4  # stratified samples along each side of the light and of the hemisphere: 16 rays of each kind
_CHUNK = 2048  # texels at once: the arrays of their rays fit the L2 cache
_DULL = 0.7  # below this cosine the broadest highlight (exponent 20) is under 0.1 %
_LIFT = np.float32(2e-3)  # metres above the surface where light is gathered


@dataclass(frozen=True)
class Window:
    """A rectangular light: `center`, half edges `a` and `b` (each [3, 1]) and the linear `color` [3, 1]."""

    center: Array
    a: Array
    b: Array
    color: Array

    @property
    def normal(self) -> Array:
        """Direction [3, 1] that it shines in."""
        n = np.cross(self.a[:, 0], self.b[:, 0])
        return (n / np.linalg.norm(n)).astype(np.float32)[:, None]


def sky(d: Array) -> Array:
    """Radiance [3, M] of the surroundings in direction `d`: bluish above, warm and dim from the sides."""
    up = np.clip(d[2], 0.0, 1.0) ** 0.6
    return paint("#8f8377") * (1.0 - up) * 0.55 + paint("#bccbe0") * up * 0.7


@dataclass
class LightMap:
    """Light stored on one solid's charts.

    Attributes:
        sizes: [charts, 2] texels along u and v.
        starts: [charts] first row of each chart.
        texels: [T, 4] direct light (1 = unshadowed, facing, at the scene's middle), then ambient RGB.
    """

    sizes: NDInt
    starts: NDInt
    texels: Array

    def look_up(self, chart: Array, u: Array, v: Array) -> tuple[Array, Array]:
        """Bilinear direct [M] and ambient [3, M] light at chart coordinates."""
        k = chart.astype(np.int64)
        width, height, start = self.sizes[k, 0], self.sizes[k, 1], self.starts[k]
        x = np.clip(u * width - 0.5, 0, width - 1).astype(np.float32)
        y = np.clip(v * height - 0.5, 0, height - 1).astype(np.float32)
        i, j = x.astype(np.int64), y.astype(np.int64)
        right, down = (i + 1 < width).astype(np.int64), (j + 1 < height) * width
        row = start + j * width + i
        fx, fy = (x - i)[:, None], (y - j)[:, None]
        a, b = self.texels.take(row, axis=0), self.texels.take(row + right, axis=0)
        row += down
        c, d = self.texels.take(row, axis=0), self.texels.take(row + right, axis=0)
        top, low = a + (b - a) * fx, c + (d - c) * fx
        out = np.ascontiguousarray((top + (low - top) * fy).T)
        return out[0], out[1:]


def bake(world: World, window: Window, rng: np.random.Generator, detail: float) -> list[LightMap]:
    """Gathers light on every solid.

    Args:
        world: The scene.
        window: The light.
        rng: Jitters the sample patterns.
        detail: Texels per `Solid.texel`, 1 for the default picture size.

    Returns:
        One map per solid.
    """
    extents = [np.array([s.shape.extent(k) for k in range(s.shape.charts)]) for s in world.solids]
    sizes = [
        np.clip(np.ceil(extent * (detail / solid.texel)), 3, 256)
        for extent, solid in zip(extents, world.solids, strict=True)
    ]
    charts = [
        (solid, k, int(size[k, 0]), int(size[k, 1]))
        for solid, size in zip(world.solids, sizes, strict=True)
        for k in range(solid.shape.charts)
    ]
    grids = [_texels(*chart) for chart in charts]
    means = np.stack([_mean_albedo(solid, rng) for solid in world.solids], axis=1)
    points, normals = (np.concatenate(part, axis=1) for part in zip(*grids, strict=True))
    light = np.zeros((4, points.shape[1]), np.float32)
    open_air = np.flatnonzero(((points > world.low) & (points < world.high)).all(0))
    light[:, open_air] = _gather(world, means, window, rng, points[:, open_air], normals[:, open_air])
    maps, start = [], 0
    for size in sizes:
        counts = size.prod(1).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rows = np.empty((int(counts.sum()), 4), np.float32)
        for (width, height), first in zip(size.astype(int), starts, strict=True):
            plane = light[:, start : start + width * height].reshape(4, height, width)
            smooth = [gaussian_filter(channel, 0.8, mode="nearest") for channel in plane]
            rows[first : first + width * height] = np.stack(smooth, axis=-1).reshape(-1, 4)
            start += width * height
        maps.append(LightMap(size.astype(np.int64), starts, rows))
    return maps


def _texels(solid: Solid, chart: int, width: int, height: int) -> tuple[Array, Array]:
    """Points just above the surface and normals, [3, width * height] each, row by row."""
    u, v = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    p = solid.shape.place(chart, u.ravel().astype(np.float32), v.ravel().astype(np.float32))
    n = solid.axes @ solid.shape.normal(p)
    return solid.to_world(p) + n * _LIFT, n


def _mean_albedo(solid: Solid, rng: np.random.Generator) -> Array:
    u, v = rng.random((2, 64), dtype=np.float32)
    points = [solid.shape.place(chart, u, v) for chart in range(solid.shape.charts)]
    return solid.finish.albedo(np.concatenate(points, axis=1)).mean(1)


def _gather(
    world: World, means: Array, window: Window, rng: np.random.Generator, p: Array, n: Array
) -> Array:
    """Direct and ambient light [4, M] at points with normals [3, M]."""
    out = np.zeros((4, p.shape[1]), np.float32)
    for start in range(0, p.shape[1], _CHUNK):
        rows = slice(start, min(start + _CHUNK, p.shape[1]))
        out[0, rows] = _direct(world, window, rng, p[:, rows], n[:, rows])
        out[1:, rows] = _ambient(world, means, rng, p[:, rows], n[:, rows])
    return out


def _strata(rng: np.random.Generator, m: int) -> tuple[Array, Array]:
    """Jittered grid samples in [0, 1], each [M, S]."""
    i, j = np.meshgrid(np.arange(_SIDE), np.arange(_SIDE))
    jitter = rng.random((2, m, _SIDE * _SIDE), dtype=np.float32)
    a, b = (i.ravel() + jitter[0]) / _SIDE, (j.ravel() + jitter[1]) / _SIDE
    return a.astype(np.float32), b.astype(np.float32)


def _direct(world: World, window: Window, rng: np.random.Generator, p: Array, n: Array) -> Array:
    a, b = _strata(rng, p.shape[1])
    samples = a.size // p.shape[1]
    at = window.center + window.a * (2 * a.ravel() - 1) + window.b * (2 * b.ravel() - 1)
    o = np.repeat(p, samples, axis=1)
    to = at - o
    distance = np.sqrt(dot(to, to))
    d = to / distance
    cosine = np.maximum(dot(np.repeat(n, samples, axis=1), d), 0)
    emitted = np.maximum(-dot(window.normal, d), 0) / distance**2
    lit = np.flatnonzero(cosine * emitted > 0)
    value = np.zeros(d.shape[1], np.float32)
    blocked = world.cast(o[:, lit], d[:, lit], distance[lit])[1] >= 0
    value[lit] = np.where(blocked, 0, cosine[lit] * emitted[lit])
    reference = float((window.center**2).sum())  # light at the origin, facing the window, is 1
    return (value.reshape(-1, samples).mean(1) * np.float32(reference)).astype(np.float32, copy=False)


def _ambient(world: World, means: Array, rng: np.random.Generator, p: Array, n: Array) -> Array:
    a, b = _strata(rng, p.shape[1])
    samples = a.size // p.shape[1]
    r, phi = np.sqrt(a.ravel()), b.ravel() * np.float32(2 * np.pi)
    normal = np.repeat(n, samples, axis=1)
    helper = np.where(np.abs(normal[2]) < 0.9, 1.0, 0.0).astype(np.float32)
    side = np.cross(normal, np.stack([1 - helper, np.zeros_like(helper), helper]), axis=0)
    side = unit(side)
    other = np.cross(normal, side, axis=0)
    up = np.sqrt(np.maximum(1 - a.ravel(), 1e-4))
    d = (side * (r * np.cos(phi)) + other * (r * np.sin(phi)) + normal * up).astype(np.float32)
    d = unit(d)
    _, hit = world.cast(np.repeat(p, samples, axis=1), d)
    radiance = np.where(hit >= 0, means[:, hit] * np.float32(0.55), sky(d))
    return radiance.reshape(3, -1, samples).mean(2).astype(np.float32, copy=False)


def shade(solid: Solid, light: LightMap, window: Window, p: Array, d: Array) -> Array:
    """Linear radiance [3, M] that leaves surface points towards the viewer.

    Args:
        solid: The solid that the points lie on.
        light: Its baked light.
        window: The light, for the highlight.
        p: [3, M] points in the world.
        d: [3, M] unit directions from the eye.
    """
    local = solid.to_local(p)
    direct, ambient = light.look_up(*solid.shape.chart(local))
    color = solid.finish.albedo(local) * (window.color * direct + ambient)
    to_light = window.center - p
    half = unit(unit(to_light) - d)
    n = solid.axes @ solid.shape.normal(local)
    facing = dot(half, n)
    shiny = np.flatnonzero(facing > _DULL)
    glint = solid.finish.specular * facing[shiny] ** np.float32(solid.finish.shininess)
    color[:, shiny] += window.color * (glint * np.minimum(direct[shiny] * 2, 1))
    return color
