"""The solids of the synthetic scene and how rays meet them.

Every shape lives in its own frame, centred on the origin. It answers three questions: where a ray
first enters it, what the normal is at a surface point, and how its surface unrolls into a stack of
square charts, on which `lighting` stores light. Arrays are `[3, M]`, metres, float32.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene.synthetic.textures import Array, Finish

NDInt = NDArray[np.int64]
MISS = np.float32(np.inf)


class Shape(Protocol):
    """A solid in its own frame; directions of rays have unit length."""

    @property
    def charts(self) -> int:
        """Number of charts."""

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about the origin."""

    def enter(self, o: Array, d: Array, start: Array) -> Array:
        """Ray parameter [M] of the first entry at or after `start` [M]; `MISS` where there is none.

        A ray that starts inside a convex shape enters it at once, so that what lies within is dark.
        """

    def normal(self, p: Array) -> Array:
        """Outward unit normal [3, M] at surface points."""

    def chart(self, p: Array) -> tuple[Array, Array, Array]:
        """Chart number (integer valued) and coordinates u, v in [0, 1], each [M]."""

    def place(self, chart: int, u: Array, v: Array) -> Array:
        """Surface points [3, M] at chart coordinates: the inverse of `chart`."""

    def extent(self, chart: int) -> tuple[float, float]:
        """Size in metres of a chart along u and v, at its widest."""


def _interval(low: Array, high: Array, start: Array) -> Array:
    return np.where((high >= low) & (high > start), np.maximum(low, start), MISS)


def dot(a: Array, b: Array) -> Array:
    """Inner products [M] of vectors [3, M]; several times faster than a reduction over a short axis."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def unit(v: Array) -> Array:
    """Vectors [3, M] at length 1; zero stays zero."""
    return (v / (np.sqrt(dot(v, v)) + np.float32(1e-12))).astype(np.float32, copy=False)


def _slabs(o: Array, d: Array, half: Array) -> tuple[Array, Array]:
    """Ray interval inside |x_k| <= half_k for all given axes k; o, d [K, M], half [K, 1]."""
    inverse = 1.0 / np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
    a, b = (-half - o) * inverse, (half - o) * inverse
    low, high = np.minimum(a, b), np.maximum(a, b)
    for k in range(1, len(half)):
        np.maximum(low[0], low[k], out=low[0])
        np.minimum(high[0], high[k], out=high[0])
    return low[0], high[0]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box with half extents `half`; one chart per face."""

    half: tuple[float, float, float]
    charts: int = field(default=6, init=False)

    @property
    def _half(self) -> Array:
        return np.array(self.half, np.float32)[:, None]

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about the origin."""
        return float(np.linalg.norm(self.half))

    def enter(self, o: Array, d: Array, start: Array) -> Array:
        """See `Shape.enter`."""
        return _interval(*_slabs(o, d, self._half), start)

    def _face(self, p: Array) -> NDInt:
        q = p / self._half
        axis = np.abs(q).argmax(0)
        return axis * 2 + (np.take_along_axis(q, axis[None], 0)[0] > 0)

    def normal(self, p: Array) -> Array:
        """See `Shape.normal`."""
        face = self._face(p)
        out = np.zeros_like(p)
        np.put_along_axis(out, (face // 2)[None], (2.0 * (face % 2) - 1.0)[None].astype(np.float32), 0)
        return out

    def chart(self, p: Array) -> tuple[Array, Array, Array]:
        """See `Shape.chart`."""
        face, q = self._face(p), p / self._half
        a, b = (face // 2 + 1) % 3, (face // 2 + 2) % 3
        u, v = (np.take_along_axis(q, k[None], 0)[0] * 0.5 + 0.5 for k in (a, b))
        return face.astype(np.float32), u, v

    def place(self, chart: int, u: Array, v: Array) -> Array:
        """See `Shape.place`."""
        axis = chart // 2
        q = np.empty((3, u.size), np.float32)
        q[axis] = 2.0 * (chart % 2) - 1.0
        q[(axis + 1) % 3], q[(axis + 2) % 3] = u * 2 - 1, v * 2 - 1
        return q * self._half

    def extent(self, chart: int) -> tuple[float, float]:
        """See `Shape.extent`."""
        axis = chart // 2
        return 2 * self.half[(axis + 1) % 3], 2 * self.half[(axis + 2) % 3]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with semi-axes `half`; one latitude-longitude chart about z."""

    half: tuple[float, float, float]
    charts: int = field(default=1, init=False)

    @property
    def _half(self) -> Array:
        return np.array(self.half, np.float32)[:, None]

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about the origin."""
        return max(self.half)

    def enter(self, o: Array, d: Array, start: Array) -> Array:
        """See `Shape.enter`."""
        p, q = o / self._half, d / self._half
        a, b, c = dot(q, q), dot(p, q), dot(p, p) - 1.0
        root = b * b - a * c
        step = np.sqrt(np.maximum(root, 0))
        return np.where(root > 0, _interval((-b - step) / a, (-b + step) / a, start), MISS)

    def normal(self, p: Array) -> Array:
        """See `Shape.normal`."""
        return unit(p / self._half**2)

    def chart(self, p: Array) -> tuple[Array, Array, Array]:
        """See `Shape.chart`."""
        n = unit(p / self._half)
        u = np.arctan2(n[1], n[0]) / np.float32(2 * np.pi) + 0.5
        return np.zeros_like(u), u, np.arccos(np.clip(n[2], -1, 1)) / np.float32(np.pi)

    def place(self, chart: int, u: Array, v: Array) -> Array:
        """See `Shape.place`."""
        phi, theta = (u - 0.5) * (2 * np.pi), v * np.pi
        n = np.stack([np.cos(phi) * np.sin(theta), np.sin(phi) * np.sin(theta), np.cos(theta)])
        return (n * self._half).astype(np.float32)

    def extent(self, chart: int) -> tuple[float, float]:
        """See `Shape.extent`."""
        return 2 * np.pi * max(self.half[:2]), np.pi * max(self.half)


@dataclass(frozen=True)
class Cylinder:
    """A capped cylinder about z, |z| <= `half`; charts: bottom, top, side."""

    r: float
    half: float
    charts: int = field(default=3, init=False)

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about the origin."""
        return float(np.hypot(self.r, self.half))

    def enter(self, o: Array, d: Array, start: Array) -> Array:
        """See `Shape.enter`."""
        low, high = _slabs(o[2:], d[2:], np.array([[self.half]], np.float32))
        a = np.maximum(d[0] * d[0] + d[1] * d[1], np.float32(1e-12))
        b, c = o[0] * d[0] + o[1] * d[1], o[0] * o[0] + o[1] * o[1] - np.float32(self.r**2)
        root = b * b - a * c
        step = np.sqrt(np.maximum(root, 0))
        t = _interval(np.maximum(low, (-b - step) / a), np.minimum(high, (-b + step) / a), start)
        return np.where(root > 0, t, MISS)

    def _side(self, p: Array) -> NDInt:
        return np.where(
            np.hypot(p[0], p[1]) / np.float32(self.r) > np.abs(p[2]) / np.float32(self.half), 2, p[2] > 0
        )

    def normal(self, p: Array) -> Array:
        """See `Shape.normal`."""
        side = self._side(p) == 2
        flat = np.stack([np.zeros_like(p[2]), np.zeros_like(p[2]), np.sign(p[2])])
        return np.where(side, unit(p * np.array([[1], [1], [0]], np.float32)), flat)

    def chart(self, p: Array) -> tuple[Array, Array, Array]:
        """See `Shape.chart`."""
        chart = self._side(p)
        side, scale = chart == 2, np.float32(0.5 / self.r)
        u = np.where(side, np.arctan2(p[1], p[0]) / np.float32(2 * np.pi) + 0.5, p[0] * scale + 0.5)
        v = np.where(side, p[2] / np.float32(2 * self.half) + 0.5, p[1] * scale + 0.5)
        return chart.astype(np.float32), u, v

    def place(self, chart: int, u: Array, v: Array) -> Array:
        """See `Shape.place`."""
        if chart == 2:
            phi = (u - 0.5) * (2 * np.pi)
            p = [self.r * np.cos(phi), self.r * np.sin(phi), (v * 2 - 1) * self.half]
        else:
            p = [(u * 2 - 1) * self.r, (v * 2 - 1) * self.r, np.full_like(u, (2 * chart - 1) * self.half)]
        return np.stack(p).astype(np.float32)

    def extent(self, chart: int) -> tuple[float, float]:
        """See `Shape.extent`."""
        return (2 * np.pi * self.r, 2 * self.half) if chart == 2 else (2 * self.r, 2 * self.r)


@dataclass(frozen=True)
class Torus:
    """A ring of radius `ring` about z with a tube of radius `tube`; one chart (around, along the tube)."""

    ring: float
    tube: float
    charts: int = field(default=1, init=False)

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere about the origin."""
        return self.ring + self.tube

    def _distance(self, p: Array) -> Array:
        return np.hypot(np.hypot(p[0], p[1]) - np.float32(self.ring), p[2]) - np.float32(self.tube)

    def enter(self, o: Array, d: Array, start: Array) -> Array:
        """Sphere tracing: the distance field is exact, so no step can pass through the surface."""
        b, c = dot(o, d), dot(o, o) - np.float32(self.radius**2)
        root = b * b - c
        half = np.sqrt(np.maximum(root, 0))
        t, end = np.maximum(-b - half, start), -b + half
        for _ in range(48):  # grazing rays need the most; the rest have long converged
            t = t + np.where(t < end, self._distance(o + d * t), 0)
        near = np.abs(self._distance(o + d * t)) < 1e-4
        return np.where((root > 0) & (t < end) & near, t, MISS)

    def normal(self, p: Array) -> Array:
        """See `Shape.normal`."""
        flat = np.hypot(p[0], p[1]) + np.float32(1e-12)
        pull = 1.0 - np.float32(self.ring) / flat
        return unit(np.stack([p[0] * pull, p[1] * pull, p[2]]))

    def chart(self, p: Array) -> tuple[Array, Array, Array]:
        """See `Shape.chart`."""
        around = np.arctan2(p[1], p[0])
        along = np.arctan2(p[2], np.hypot(p[0], p[1]) - np.float32(self.ring))
        u, v = (a / np.float32(2 * np.pi) + 0.5 for a in (around, along))
        return np.zeros_like(u), u, v

    def place(self, chart: int, u: Array, v: Array) -> Array:
        """See `Shape.place`."""
        a, b = (u - 0.5) * (2 * np.pi), (v - 0.5) * (2 * np.pi)
        flat = self.ring + self.tube * np.cos(b)
        return np.stack([flat * np.cos(a), flat * np.sin(a), self.tube * np.sin(b)]).astype(np.float32)

    def extent(self, chart: int) -> tuple[float, float]:
        """See `Shape.extent`."""
        return 2 * np.pi * self.radius, 2 * np.pi * self.tube


@dataclass
class Solid:
    """A shape set into the world with a finish.

    Attributes:
        shape: The solid in its own frame.
        finish: Its look.
        center: [3, 1] world position of the shape's origin.
        axes: [3, 3] rotation; columns are the shape's axes in the world.
        texel: Edge of a light-map texel in metres, before clamping.
    """

    shape: Shape
    finish: Finish
    center: Array
    axes: Array = field(default_factory=lambda: np.eye(3, dtype=np.float32))
    texel: float = 0.025

    def to_local(self, p: Array) -> Array:
        """World points [3, M] in the shape's frame."""
        return self.axes.T @ (p - self.center)

    def to_world(self, p: Array) -> Array:
        """Points [3, M] of the shape's frame in the world."""
        return self.axes @ p + self.center

    def enter(self, o: Array, d: Array) -> Array:
        """World-space distance [M] to the first entry, `MISS` where there is none; 0 for rays from within."""
        middle = dot(d, self.center - o)  # measured from the point nearest the centre: f32 keeps
        local = self.to_local(o + d * middle)  # thin rods exact
        return self.shape.enter(local, self.axes.T @ d, -middle) + middle
