"""Cuts a large scene into blocks on the ground plane.

Cells tile the plane, each with about as many cameras as any other; what a block is trained on reaches beyond
its cell, so that neighbours agree at the seam. As in VastGaussian (Lin et al., Vast 3D Gaussians for Large
Scene Reconstruction, CVPR 2024) strips of cameras are cut again across, each block is grown by a share of its
size, and gets further cameras that see enough of it. VastGaussian measures that by the block's bounding box
in the picture, CityGaussian (Liu et al., Real-time High-quality Large-scale Scene Rendering with Gaussians,
ECCV 2024) by what a picture loses without the block; here it is the share of a camera's own points that lie
in the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Plane:
    """The ground, as the cameras' principal axes tell it.

    Attributes:
        origin: [3], world.
        axes: [2, 3], orthonormal rows; the first one is the cameras' longest axis.
    """

    origin: Array
    axes: Array

    def spots(self, xyz: NDArray[np.floating]) -> Array:
        """Places [N, 3] in the world as places [N, 2] on the plane."""
        # one sum after the other: a matrix product's order of additions depends on the number of rows, and
        # a point on a boundary would change sides with it
        away = np.asarray(xyz, np.float64) - self.origin
        return np.stack([(away * axis).sum(axis=1) for axis in self.axes], axis=1)


@dataclass(frozen=True)
class Cell:
    """A rectangle on the plane: `low` belongs to it, `high` to the next; infinite at the outside."""

    name: str
    low: tuple[float, float]
    high: tuple[float, float]

    def holds(self, spots: Array, margin: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.bool_]:
        """Which of the places [N, 2] lie in it, grown by a margin on every side: [N]."""
        low, high = np.subtract(self.low, margin), np.add(self.high, margin)
        return np.all((spots >= low) & (spots < high), axis=1)


@dataclass(frozen=True, eq=False)
class Block:
    """What one training gets.

    Attributes:
        cell: the part of the plane whose Gaussians are kept.
        cameras: rows of those that it is trained on.
        points: rows of those that it starts from.
    """

    cell: Cell
    cameras: NDArray[np.int64]
    points: NDArray[np.int64]


def ground_plane(centres: Array) -> Plane:
    """The plane of the two longest principal axes of the camera centres [C, 3], C >= 1."""
    origin = centres.mean(axis=0)
    axes = np.linalg.svd(centres - origin, full_matrices=True)[2][:2]
    largest = np.abs(axes).argmax(axis=1)
    return Plane(origin, axes * np.sign(axes[[0, 1], largest])[:, None])  # the signs are arbitrary otherwise


def cut(spots: Array, a: int, b: int) -> list[Cell]:
    """`a` strips along the first axis with equally many cameras [C, 2] each, cut into `b` along the other."""
    found = []
    outer = _bounds(spots[:, 0], a)
    for i in range(a):
        in_strip = (spots[:, 0] >= outer[i]) & (spots[:, 0] < outer[i + 1])
        inner = _bounds(spots[in_strip, 1], b)
        found += [
            Cell(f"block_{i}_{j}", (outer[i], inner[j]), (outer[i + 1], inner[j + 1])) for j in range(b)
        ]
    return found


def assign(
    cells: Sequence[Cell],
    cameras: Array,
    points: Array,
    seen: Sequence[NDArray[np.int64]],
    *,
    overlap: float,
    visible: float,
) -> list[Block]:
    """The cameras and points of each cell.

    Args:
        cells: from `cut`.
        cameras: [C, 2] on the plane.
        points: [P, 2] on the plane.
        seen: for each camera the rows of the points that it observes, each once.
        overlap: how far a block reaches beyond its cell on every side, as a share of the cell's size.
        visible: a camera elsewhere belongs to a block if at least this share of its points lie in the cell.

    Returns:
        A block per cell. Every camera and every point is in one at least. A block also starts from points
        outside its grown cell that two of its cameras observe: they would be missing behind it otherwise.
    """
    blocks = []
    for cell in cells:
        margin = _margin(cell, cameras, overlap)
        inside = cell.holds(points)
        shares = np.array([inside[rows].mean() if len(rows) else 0.0 for rows in seen])
        chosen = cell.holds(cameras, margin) | (shares >= visible)
        counts = np.zeros(len(points), np.int64)
        for row in np.flatnonzero(chosen).tolist():
            counts[seen[row]] += 1
        starts = cell.holds(points, margin) | (counts >= 2)
        blocks.append(Block(cell, np.flatnonzero(chosen), np.flatnonzero(starts)))
    return blocks


def _bounds(values: Array, parts: int) -> list[float]:
    """Boundaries of so many intervals with equally many of the values each; the outer ones are infinite."""
    ordered = np.sort(values)
    inner = []
    for k in range(1, parts):
        at = round(k * len(ordered) / parts)
        pair = ordered[max(0, at - 1) : at + 1]
        inner.append(float(pair.mean()) if len(pair) else 0.0)
    return [-np.inf, *inner, np.inf]


def _margin(cell: Cell, cameras: Array, overlap: float) -> tuple[float, float]:
    """How far a cell is grown along both axes; where it reaches to infinity its last camera is its end."""
    own = cameras[cell.holds(cameras)]
    if not len(own):
        return (0.0, 0.0)
    low = np.where(np.isfinite(cell.low), cell.low, own.min(axis=0))
    high = np.where(np.isfinite(cell.high), cell.high, own.max(axis=0))
    along, across = overlap * (high - low)
    return (float(along), float(across))
