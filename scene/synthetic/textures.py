"""Procedural surface colours for the synthetic scene: noise and what is made of it.

A material maps points in an object's own frame, `[3, M]` metres, to linear-light albedo
`[3, M]` in [0, 1]. Everything is built of lattice noise of several octaves, so that no patch of any
surface is plain and views can be matched to each other. Nothing here knows about rays or lights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Material = Callable[[Array], Array]

_LATTICE = 64  # cells after which the noise repeats; far more than any object spans


@dataclass(frozen=True)
class Finish:
    """How an object looks: its albedo, and a Blinn-Phong highlight of given weight and exponent."""

    albedo: Material
    specular: float = 0.03
    shininess: float = 24.0


def paint(code: str) -> Array:
    """Linear-light colour [3, 1] of an sRGB hex code such as "#c86432"."""
    srgb = np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)[:, None]


def mix(a: Array, b: Array, amount: Array) -> Array:
    """Blends `a` into `b` [3, M or 1] by `amount` [M] in [0, 1]."""
    return a + (b - a) * amount


def smoothstep(low: float, high: float, x: Array) -> Array:
    """0 below `low`, 1 above `high`, a smooth cubic between [M]."""
    t = np.clip((x - low) / np.float32(high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def fract(x: Array) -> Array:
    """The part of `x` [M] after the point, in [0, 1)."""
    return x - np.floor(x)


def _palette(colors: Sequence[Array], t: Array) -> Array:
    """Piecewise linear ramp through `colors` (each [3, 1]) at `t` [M] in [0, 1] -> [3, M]."""
    table = np.concatenate(colors, axis=1)
    x = np.clip(t, 0.0, 1.0) * np.float32(len(colors) - 1)
    i = np.minimum(x.astype(np.int64), len(colors) - 2)
    low = table.take(i, axis=1)
    return low + (table.take(i + 1, axis=1) - low) * (x - i).astype(np.float32)


class Textures:
    """All materials of one scene, drawn from one random generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Draws the noise lattice; equal generators give equal materials."""
        self._values = rng.random(_LATTICE**3, dtype=np.float32)
        self._shifts = rng.random((8, 3, 1), dtype=np.float32) * _LATTICE

    def noise(self, p: Array) -> Array:
        """Value noise [M] in [0, 1] at `p` [3, M], one cell per unit, C1-smooth."""
        cell = np.floor(p)
        f = p - cell
        f = f * f * (3.0 - 2.0 * f)
        i = cell.astype(np.int64) & (_LATTICE - 1)
        j = (i + 1) & (_LATTICE - 1)
        x0, x1 = i[0] * _LATTICE**2, j[0] * _LATTICE**2
        y0, y1 = i[1] * _LATTICE, j[1] * _LATTICE
        planes = []
        for z in (i[2], j[2]):
            a, b = self._values.take(x0 + y0 + z), self._values.take(x1 + y0 + z)
            c, d = self._values.take(x0 + y1 + z), self._values.take(x1 + y1 + z)
            low = a + (b - a) * f[0]
            planes.append(low + (c + (d - c) * f[0] - low) * f[1])
        return planes[0] + (planes[1] - planes[0]) * f[2]

    def fbm(self, p: Array, octaves: int = 4, gain: float = 0.55) -> Array:
        """Sum of `octaves` noises, each twice as fine and `gain` as strong; [M] in [0, 1]."""
        total, weight, amplitude = np.zeros(p.shape[1], np.float32), 0.0, 1.0
        for k in range(octaves):
            total += np.float32(amplitude) * self.noise(p * np.float32(2.03**k) + self._shifts[k])
            weight += amplitude
            amplitude *= gain
        return total / np.float32(weight)

    def cell_hash(self, i: Array, j: Array, salt: int = 0) -> Array:
        """One random number [M] in [0, 1] per integer cell (i, j)."""
        a, b = i.astype(np.int64), j.astype(np.int64)
        return self._values.take((a * 73856093 + b * 19349663 + salt * 83492791) & (_LATTICE**3 - 1))

    # Each method below returns a material. Axes name the two local coordinates of a flat pattern.

    def bricks(self, axes: tuple[int, int], width: float = 0.24, height: float = 0.08) -> Material:
        """Running-bond bricks with mortar, a tint per brick, pits and soot."""
        mortar, ramp = paint("#b9b1a3"), [paint(c) for c in ("#6e2f20", "#9c4a30", "#b86a45", "#8a5a48")]

        def albedo(p: Array) -> Array:
            u, v = p[axes[0]] / np.float32(width), p[axes[1]] / np.float32(height)
            row = np.floor(v)
            u = u + fract(row * 0.5)
            column = np.floor(u)
            edge = np.minimum(
                np.minimum(u - column, 1 - u + column) * (width / height), np.minimum(v - row, 1 - v + row)
            )
            grain = self.fbm(p * 26.0, 4)
            wobble = 0.07 * (grain - 0.5)  # ragged joints
            brick = _palette(ramp, self.cell_hash(row, column)) * (0.45 + 1.1 * grain)
            soot = 0.72 + 0.5 * self.noise(p * 3.1)
            return mix(mortar * (0.6 + 0.7 * grain), brick, smoothstep(0.05, 0.1, edge + wobble)) * soot

        return albedo

    def planks(self, axes: tuple[int, int], width: float, length: float, codes: Sequence[str]) -> Material:
        """Boards along the first axis with grain, seams and one tone per board."""
        ramp = [paint(c) for c in codes]

        def albedo(p: Array) -> Array:
            v = p[axes[1]] / np.float32(width)
            board = np.floor(v)
            u = p[axes[0]] / np.float32(length) + self.cell_hash(board, board, 3) * 7.0
            piece = np.floor(u)
            tone = self.cell_hash(board, piece)
            q = np.stack([p[axes[0]] * 2.2 + tone * 31.0, p[axes[1]] * 34.0, tone * 50.0])
            warp = self.fbm(q, 4)
            rings = 0.5 + 0.5 * np.sin(38.0 * warp + 5.0 * tone)
            color = _palette(ramp, np.clip(0.55 * tone + 0.45 * rings * warp * 1.6, 0, 1))
            seam = np.minimum(
                np.minimum(v - board, 1 - v + board) * width, np.minimum(u - piece, 1 - u + piece) * length
            )
            return color * (0.6 + 0.6 * warp) * (0.3 + 0.7 * smoothstep(0.0008, 0.004, seam))

        return albedo

    def marble(self, light: str, vein: str, scale: float = 9.0) -> Material:
        """Veins of a warped sine with fine mottling."""
        base, line = paint(light), paint(vein)

        def albedo(p: Array) -> Array:
            warp = self.fbm(p * np.float32(scale), 5)
            phase = (p[0] + 0.7 * p[1] + 0.4 * p[2]) * np.float32(scale * 1.6) + 9.0 * warp
            veins = np.abs(np.sin(phase)) ** 0.35
            return mix(line, base, np.clip(veins * (0.55 + 0.8 * self.fbm(p * 60.0, 2)), 0, 1))

        return albedo

    def checks(self, size: float, codes: tuple[str, str], axes: tuple[int, int] | None = None) -> Material:
        """Two-colour chequers: flat squares of `size`, or without `axes` `size` sectors about z on a ball."""
        a, b = paint(codes[0]), paint(codes[1])

        def albedo(p: Array) -> Array:
            if axes is None:
                radius = np.sqrt((p * p).sum(0)) + 1e-9
                u = np.arctan2(p[1], p[0]) * np.float32(size / (2 * np.pi))
                v = np.arccos(np.clip(p[2] / radius, -1, 1)) * np.float32(size / (2 * np.pi))
            else:
                u, v = p[axes[0]] / np.float32(size), p[axes[1]] / np.float32(size)
            odd = 2.0 * fract(0.5 * (np.floor(u) + np.floor(v)))
            return mix(a, b, odd) * (0.65 + 0.6 * self.fbm(p * 55.0, 3))

        return albedo

    def ceramic(self, ground: str, ornament: str, bands: float = 34.0) -> Material:
        """Glazed pot about z: painted bands, zigzags and dots under speckled glaze."""
        a, b = paint(ground), paint(ornament)

        def albedo(p: Array) -> Array:
            angle = np.arctan2(p[1], p[0])
            band = p[2] * np.float32(bands)
            row = np.floor(band)
            kind = row - 3.0 * np.floor(row / 3.0)
            f = band - row
            zigzag = np.abs(fract(angle * (9 / np.pi)) - 0.5) * 2.0
            dots = np.hypot(fract(angle * (11 / np.pi)) - 0.5, f - 0.5)
            drawn = np.where(
                kind == 0, np.abs(f - zigzag) < 0.22, np.where(kind == 1, dots < 0.3, (f > 0.35) & (f < 0.7))
            )
            speckle = 0.7 + 0.5 * self.fbm(p * 70.0, 3)
            return mix(a, b, drawn.astype(np.float32)) * speckle

        return albedo

    def globe(self) -> Material:
        """A planet: shallow and deep sea, green to sandy land, white poles, a graticule."""
        sea = [paint("#12375e"), paint("#2d76a8")]
        land = [paint("#3f7a3a"), paint("#a9a25a"), paint("#c9a36b"), paint("#7b5a3c")]
        ice, ink = paint("#f2f4f5"), paint("#1d2a38")

        def albedo(p: Array) -> Array:
            n = (p / (np.sqrt((p * p).sum(0)) + 1e-9)).astype(np.float32, copy=False)
            height = self.fbm(n * 2.6, 6)
            ground = _palette(land, np.clip((height - 0.5) * 5.0 + 0.25 * self.noise(n * 30.0), 0, 1))
            color = mix(
                _palette(sea, np.clip(height * 2.2 - 0.3, 0, 1)), ground, smoothstep(0.5, 0.512, height)
            )
            color = mix(color, ice, smoothstep(0.86, 0.9, np.abs(n[2]) + 0.12 * (height - 0.5)))
            u, v = np.arctan2(n[1], n[0]) * (9 / np.pi), np.arccos(np.clip(n[2], -1, 1)) * (9 / np.pi)
            meridian = np.abs(u - np.round(u)) * np.sqrt(1 - n[2] ** 2 + 1e-6)
            line = np.minimum(meridian, np.abs(v - np.round(v)))
            color = mix(ink, color, 0.45 + 0.55 * smoothstep(0.02, 0.06, line))
            return color * (0.8 + 0.35 * self.fbm(n * 24.0, 3))

        return albedo

    def speckled(self, codes: Sequence[str], scale: float = 30.0, contrast: float = 1.5) -> Material:
        """Cloudy mottling through a ramp of colours: plaster, peel, clay, cloth."""
        ramp = [paint(c) for c in codes]

        def albedo(p: Array) -> Array:
            t = self.fbm(p * np.float32(scale), 5, 0.7)
            return _palette(ramp, np.clip(0.5 + np.float32(contrast) * (t - 0.5), 0, 1))

        return albedo

    def wallpaper(self, axes: tuple[int, int], codes: Sequence[str], size: float = 0.22) -> Material:
        """Half-dropped printed medallions on a striped, uneven ground."""
        ground, stripe, ink = (paint(c) for c in codes)

        def albedo(p: Array) -> Array:
            u, v = p[axes[0]] / np.float32(size), p[axes[1]] / np.float32(size)
            v = v + fract(0.5 * np.floor(u))
            x, y = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
            tint = self.cell_hash(np.floor(u), np.floor(v), 5)
            radius, angle = np.hypot(x, y), np.arctan2(y, x)
            flower = np.abs(radius - 0.26 - 0.09 * np.cos(6 * angle + 6.0 * tint)) < 0.035
            heart = radius < 0.06 + 0.06 * tint
            color = mix(ground, stripe, (fract(u * 4) < 0.18).astype(np.float32))
            color = mix(color, ink * (0.6 + 0.8 * tint), (flower | heart).astype(np.float32))
            return color * (0.62 + 0.65 * self.fbm(p * 11.0, 5, 0.65))

        return albedo

    def rug(self, half: tuple[float, float]) -> Material:
        """A woven carpet: borders along the edges, a lattice of lozenges within, thread by thread."""
        red, blue, cream, dark = (paint(c) for c in ("#8c2a2a", "#27406b", "#d8c59c", "#3a1c1c"))

        def albedo(p: Array) -> Array:
            inset = np.minimum(half[0] - np.abs(p[0]), half[1] - np.abs(p[1]))
            lozenge = (np.abs(fract(p[0] * 4.0) - 0.5) + np.abs(fract(p[1] * 4.0) - 0.5)) * 2
            tint = self.cell_hash(np.floor(p[0] * 4.0), np.floor(p[1] * 4.0), 9)
            field = mix(red, blue, ((lozenge < 0.45 + 0.4 * tint) & (lozenge > 0.2)).astype(np.float32))
            field = mix(field, cream, (np.abs(lozenge - 1.0) < 0.09).astype(np.float32))
            teeth = np.abs(fract((p[0] + p[1]) * 13.0) - 0.5) * 0.1
            border = mix(blue, cream, (np.abs(inset - 0.1) < teeth).astype(np.float32))
            color = mix(field, border, (inset < 0.16).astype(np.float32))
            color = mix(color, dark, ((inset < 0.03) | (np.abs(inset - 0.17) < 0.012)).astype(np.float32))
            thread = 0.85 + 0.3 * self.noise(p * np.array([[210.0], [60.0], [0.0]], np.float32))
            return color * thread * (0.6 + 0.7 * self.fbm(p * 14.0, 4))

        return albedo

    def painting(self, axes: tuple[int, int], half: tuple[float, float]) -> Material:
        """A framed abstract landscape of warped, layered noise."""
        ramp = [paint(c) for c in ("#1b2c47", "#41718c", "#d9b36a", "#c7502f", "#5c1f2c", "#ece2c6")]
        frame = self.planks(axes, 0.03, 0.4, ("#3b2414", "#7a4b22"))

        def albedo(p: Array) -> Array:
            u, v = p[axes[0]], p[axes[1]]
            q = np.stack([u * 3.0, v * 5.0, np.zeros_like(u)])
            warp = self.fbm(q, 5)
            t = 0.5 + 0.5 * np.sin(7.0 * v + 9.0 * self.fbm(q + 3.5 * warp, 4) + 4.0 * u)
            canvas = _palette(ramp, t) * (0.75 + 0.4 * self.noise(q * np.float32(60.0)))
            inside = (np.abs(u) < half[0] - 0.05) & (np.abs(v) < half[1] - 0.05)
            return mix(frame(p), canvas, inside.astype(np.float32))

        return albedo

    def book(self, cover: str, ink: str, half: tuple[float, float, float]) -> Material:
        """Cloth cover with a printed title block; pale page edges on three sides (spine at -x)."""
        a, b, page = paint(cover), paint(ink), paint("#e8dcc0")

        def albedo(p: Array) -> Array:
            rim = half[2] * 0.8
            inside = (np.abs(p[2]) < rim) & ((np.abs(p[1]) > half[1] * 0.985) | (p[0] > half[0] * 0.985))
            line = np.abs(fract(p[1] / np.float32(half[1]) * 6.0) - 0.5)
            word = self.cell_hash(np.floor(p[0] * 110.0), np.floor(p[1] / np.float32(half[1]) * 6.0), 11)
            block = (np.abs(p[0]) < half[0] * 0.6) & (np.abs(p[1]) < half[1] * 0.7)
            color = mix(a, b, (block & (line < 0.22) & (word > 0.35)).astype(np.float32))
            color = mix(color, b, (np.abs(np.abs(p[1]) - half[1] * 0.85) < half[1] * 0.03).astype(np.float32))
            color = color * (0.6 + 0.7 * self.fbm(p * 60.0, 4))
            sheets = np.array([[3.0], [3.0], [420.0]], np.float32)
            leaves = page * (0.6 + 0.6 * self.noise(p * sheets))
            return mix(color, leaves, inside.astype(np.float32))

        return albedo

    def leaf(self, half: tuple[float, float]) -> Material:
        """A leaf along x: pale midrib and side veins on mottled green."""
        ramp, vein = [paint(c) for c in ("#1f4a1e", "#3d7a2a", "#7fa83e")], paint("#b9cc7a")

        def albedo(p: Array) -> Array:
            x, y = p[0] / np.float32(half[0]), p[1] / np.float32(half[1])
            side = np.abs(fract(x * 4.0 - np.abs(y) * 1.2) - 0.5)
            drawn = (np.abs(y) < 0.09) | (side < 0.06)
            green = _palette(ramp, np.clip(2.0 * self.fbm(p * 50.0 + half[0] * 900.0, 4) - 0.5, 0, 1))
            return mix(green, vein, 0.75 * drawn.astype(np.float32))

        return albedo
