"""What stands in the synthetic scene: a table with things on it, in a room that is open in front.

World axes: x right along the back wall, y into the room, z up; metres; the origin lies on the floor
below the middle of the table, shifted up so that lights and cameras can aim at (0, 0, 0).
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from scene.synthetic.lighting import Window
from scene.synthetic.shapes import Box, Cylinder, Ellipsoid, Solid, Torus
from scene.synthetic.textures import Array, Finish, Textures, paint
from scene.synthetic.world import World

_Groups = list[list[Solid]]

_TABLE = -0.12  # height of the table top; things on it surround the origin
_FLOOR = -0.84
_GREENS = 22  # leaves of the plant


def _at(x: float, y: float, z: float) -> Array:
    return np.array([[x], [y], [z]], np.float32)


def _turn(order: str, *degrees: float) -> Array:
    matrix = Rotation.from_euler(order, degrees, degrees=True).as_matrix()
    return matrix.astype(np.float32).reshape(3, 3)  # SciPy 1.15 gives [1, 3, 3] for one angle


def _rod(a: Array, b: Array, r: float, finish: Finish) -> Solid:
    """A thin cylinder from point `a` to `b` ([3, 1] each)."""
    along = (b - a)[:, 0]
    length = float(np.linalg.norm(along))
    z = along / length
    x = np.cross(z, [0.0, 0.0, 1.0] if abs(z[2]) < 0.9 else [1.0, 0.0, 0.0])
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(z, x), z], axis=1).astype(np.float32)
    return Solid(Cylinder(r, length / 2), finish, (a + b) * np.float32(0.5), axes)


def window() -> Window:
    """The soft light: a window-sized panel high on the left, in front of the table."""
    center = _at(-1.7, -1.6, 1.9)
    aim = center / np.linalg.norm(center)
    a = np.cross(aim[:, 0], [0.0, 0.0, 1.0])
    a /= np.linalg.norm(a)
    b = np.cross(a, aim[:, 0])
    size = np.float32(0.34)
    edges = [(v * size).astype(np.float32)[:, None] for v in (a, b)]
    return Window(center, edges[0], edges[1], paint("#fff0d8") * np.float32(2.05))


def build(rng: np.random.Generator) -> World:
    """All solids, grouped by place; textures and small shifts are drawn from `rng`."""
    t = Textures(rng)
    groups = [*_room(t), *_table(t), *_things(t, rng), _books(t, rng), _plant(t, rng), _pyramid(t)]
    return World(groups + _shelf(t, rng), _at(-2.75, -2.6, _FLOOR), _at(2.75, 1.6, _FLOOR + 3.0))


def _room(t: Textures) -> _Groups:
    floor = Finish(t.planks((1, 0), 0.16, 1.3, ("#4a2f1c", "#7d5330", "#a87a4b", "#8a6238")), 0.06, 30)
    back = Finish(t.bricks((0, 2)))
    left = Finish(t.wallpaper((1, 2), ("#5d7f7a", "#89a79c", "#e3c98c")))
    right = Finish(t.speckled(("#a5603f", "#c98f5f", "#e2c08d", "#d3a878"), 6.0, 2.6))
    rug = Finish(t.rug((1.15, 0.85)), 0.0)
    picture = Finish(t.painting((0, 2), (0.42, 0.3)), 0.05, 40)
    solids = [
        Solid(Box((2.75, 2.6, 0.05)), floor, _at(0, 0, _FLOOR - 0.05), texel=0.0416),
        Solid(Box((2.75, 0.05, 1.5)), back, _at(0, 1.65, _FLOOR + 1.5), texel=0.052),
        Solid(Box((0.05, 2.6, 1.5)), left, _at(-2.8, 0, _FLOOR + 1.5), texel=0.091),
        Solid(Box((0.05, 2.6, 1.5)), right, _at(2.8, 0, _FLOOR + 1.5), texel=0.091),
        Solid(Box((1.15, 0.85, 0.01)), rug, _at(0.05, -0.05, _FLOOR + 0.008), _turn("z", 6), 0.028),
        Solid(Box((0.42, 0.02, 0.3)), picture, _at(-0.75, 1.58, 0.62), texel=0.039),
    ]
    return [[solid] for solid in solids]


def _table(t: Textures) -> _Groups:
    wood = Finish(t.planks((0, 1), 0.125, 2.4, ("#6b4325", "#9a6a3c", "#c0925c")), 0.12, 60)
    leg = Finish(t.planks((2, 0), 0.2, 2.0, ("#54341c", "#7a4f2b")), 0.08, 40)
    low = _at(0, 0, (_FLOOR + _TABLE - 0.05) / 2)
    half = (_TABLE - 0.05 - _FLOOR) / 2
    legs = [Solid(Cylinder(0.028, half), leg, low + _at(x, y, 0)) for x in (-0.68, 0.68) for y in (-0.4, 0.4)]
    return [[Solid(Box((0.76, 0.48, 0.025)), wood, _at(0, 0, _TABLE - 0.025), texel=0.0117)], legs]


def _things(t: Textures, rng: np.random.Generator) -> _Groups:
    globe = _at(-0.42, 0.1, _TABLE + 0.23)
    brass = Finish(t.speckled(("#7a5a1e", "#b98f3a", "#e0c070"), 60.0), 0.5, 50)
    tilt = _turn("yz", 23.4, float(rng.uniform(0, 360)))
    stand = [
        Solid(Cylinder(0.075, 0.012), brass, _at(-0.42, 0.1, _TABLE + 0.012), texel=0.0104),
        Solid(Cylinder(0.012, 0.03), brass, _at(-0.42, 0.1, _TABLE + 0.05), texel=0.0104),
        Solid(Ellipsoid((0.158,) * 3), Finish(t.globe(), 0.25, 60), globe, tilt, 0.01),
        Solid(Torus(0.176, 0.007), brass, globe, _turn("x", 90.0), 0.015),
    ]
    cube = Finish(t.marble("#e9e4da", "#4d5a55"), 0.3, 80)
    ball = Finish(t.checks(14, ("#c8402f", "#efe3c4")), 0.25, 60)
    ring = Finish(t.ceramic("#2f6f73", "#e7d7a5", 60.0), 0.3, 60)
    peel = Finish(t.speckled(("#b4500f", "#e58a1f", "#f6b545"), 70.0, 2.0), 0.15, 30)
    tiles = Finish(t.checks(0.035, ("#27323f", "#d9d2c3"), (0, 1)), 0.2, 60)
    things = [
        Solid(Box((0.075,) * 3), cube, _at(-0.1, -0.17, _TABLE + 0.075), _turn("z", 33), 0.01),
        Solid(Ellipsoid((0.078,) * 3), ball, _at(0.2, -0.26, _TABLE + 0.078), _turn("xz", 35, 60), 0.01),
        Solid(Torus(0.068, 0.026), ring, _at(-0.1, -0.17, _TABLE + 0.176), _turn("z", 20), 0.01),
        Solid(Box((0.13, 0.1, 0.006)), tiles, _at(-0.42, -0.28, _TABLE + 0.006), _turn("z", -14), 0.011),
    ]
    bottom = _TABLE + 0.012  # on the tiles; the fourth lies on the other three
    oranges = [(-0.45, -0.3, 0.043), (-0.365, -0.265, 0.04), (-0.42, -0.21, 0.041), (-0.41, -0.262, 0.115)]
    fruit = [
        Solid(Ellipsoid((0.046, 0.046, 0.043)), peel, _at(x, y, bottom + z), _turn("zx", 70 * k, 20), 0.011)
        for k, (x, y, z) in enumerate(oranges)
    ]
    pencil = Finish(t.speckled(("#b98412", "#e3b02a", "#f2cf6a"), 40.0), 0.2, 40)
    pencils = [
        _rod(_at(0.02, -0.4, _TABLE + 0.006), _at(0.3, -0.39, _TABLE + 0.006), 0.006, pencil),
        _rod(_at(0.05, -0.34, _TABLE + 0.006), _at(0.27, -0.43, _TABLE + 0.018), 0.006, pencil),
    ]
    return [stand, *[[thing] for thing in things], fruit, pencils]


def _books(t: Textures, rng: np.random.Generator) -> list[Solid]:
    books, z = [], _TABLE
    looks = [("#1f3a5f", "#d8b04c"), ("#7b2230", "#e9dcc0"), ("#2f5d3a", "#e6cf7a"), ("#c9b083", "#40261a")]
    for k, (cover, ink) in enumerate(looks):
        half = (0.125 - 0.012 * k, 0.17 - 0.014 * k, float(rng.uniform(0.016, 0.026)))
        turn = _turn("z", float(rng.uniform(-22, 22)) + 12)
        finish = Finish(t.book(cover, ink, half), 0.06, 30)
        books.append(Solid(Box(half), finish, _at(0.52, -0.08, z + half[2]), turn, 0.011))
        z += 2 * half[2]
    apple = Finish(t.speckled(("#6e1414", "#a3231c", "#cf6a2a", "#d8b24a"), 16.0, 2.4), 0.4, 70)
    books.append(Solid(Ellipsoid((0.047, 0.047, 0.042)), apple, _at(0.5, -0.06, z + 0.042), texel=0.0104))
    return books


def _plant(t: Textures, rng: np.random.Generator) -> list[Solid]:
    """A potted plant: bent stems of two rods, and pointed leaves around them."""
    foot = _at(0.13, 0.2, _TABLE)
    pot = Finish(t.ceramic("#e8e2d2", "#2c4f8f"), 0.35, 70)
    soil = Finish(t.speckled(("#20140c", "#3f2a1a", "#6b5138"), 80.0, 2.2))
    stalk = Finish(t.speckled(("#3e5a22", "#6f8a3a"), 60.0))
    solids = [
        Solid(Cylinder(0.1, 0.1), pot, foot + _at(0, 0, 0.1), texel=0.0117),
        Solid(Torus(0.098, 0.011), pot, foot + _at(0, 0, 0.195), texel=0.0117),
        Solid(Cylinder(0.09, 0.004), soil, foot + _at(0, 0, 0.202), texel=0.0117),
    ]
    for k in range(_GREENS):
        angle = 2.399963 * k + float(rng.uniform(-0.3, 0.3))  # the golden angle, as plants grow
        rise = float(0.1 + 0.34 * (k + 0.5) / _GREENS + rng.uniform(-0.02, 0.02))
        reach = float(0.17 * (1.15 - 0.75 * k / _GREENS) + rng.uniform(-0.02, 0.02))
        out = _at(np.cos(angle), np.sin(angle), 0)
        root = foot + _at(0, 0, 0.2) + out * 0.02
        elbow = root + out * (0.25 * reach) + _at(0, 0, rise * 0.75)
        tip = root + out * reach + _at(0, 0, rise)
        solids += [_rod(root, elbow, 0.0035, stalk), _rod(elbow, tip, 0.0025, stalk)]
        half = (float(rng.uniform(0.055, 0.08)), float(rng.uniform(0.022, 0.032)), 0.0016)
        axes = _turn("ZYX", np.degrees(angle), float(rng.uniform(5, 40)), float(rng.uniform(-25, 25)))
        blade = tip + axes[:, :1] * np.float32(half[0] * 0.9)
        solids.append(Solid(Ellipsoid(half), Finish(t.leaf(half[:2]), 0.12, 30), blade, axes))
    return solids


def _pyramid(t: Textures) -> list[Solid]:
    """A wire pyramid: thin rods that no blurred depth can pass for."""
    wire = Finish(t.speckled(("#8a6a2a", "#c79f4a", "#e6cb86"), 90.0), 0.5, 40)
    spots = ((0.27, 0.24), (0.47, 0.24), (0.47, 0.42), (0.27, 0.42))
    corners = [_at(x, y, _TABLE + 0.004) for x, y in spots]
    top = _at(0.37, 0.33, _TABLE + 0.27)
    pairs = [(corners[k], corners[(k + 1) % 4]) for k in range(4)] + [(c, top) for c in corners]
    return [_rod(a, b, 0.0045, wire) for a, b in pairs]


def _shelf(t: Textures, rng: np.random.Generator) -> _Groups:
    """A board with books on the back wall, and a crate on the floor beside the table."""
    wood = Finish(t.planks((0, 1), 0.1, 1.5, ("#5b3a20", "#8a5d33")), 0.05, 30)
    x, board = 0.25, _at(0.85, 1.47, 0.36)
    row = [Solid(Box((0.72, 0.12, 0.018)), wood, board, texel=0.0325)]
    covers = ("#a33b2c", "#2b4a6f", "#d6b25e", "#3f6b4a", "#6b3f6b", "#c77f3a", "#e0d5bd", "#27484f")
    while x < 1.3:
        thick, high, deep = (float(rng.uniform(*r)) for r in ((0.014, 0.034), (0.1, 0.17), (0.07, 0.1)))
        cover, ink = (covers[int(rng.integers(len(covers)))] for _ in range(2))
        # lying books stood on end: the book's x (spine at -x) faces the room
        axes = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], np.float32)
        place = _at(x + thick, 1.45, 0.378 + high)
        half = (deep, high, thick)
        row.append(Solid(Box(half), Finish(t.book(cover, ink, half), 0.06, 30), place, axes, 0.026))
        x += 2 * thick + 0.003
    slats = Finish(t.planks((0, 2), 0.085, 0.9, ("#7a5a38", "#a58354", "#c9aa78")), 0.03, 20)
    crate = Solid(Box((0.3, 0.25, 0.22)), slats, _at(-1.45, 0.85, _FLOOR + 0.22), _turn("z", 28), 0.03)
    drum = Finish(t.ceramic("#b65a35", "#f0dfba", 12.0), 0.1, 30)
    return [row, [crate], [Solid(Cylinder(0.24, 0.26), drum, _at(1.6, 0.75, _FLOOR + 0.26), texel=0.039)]]
