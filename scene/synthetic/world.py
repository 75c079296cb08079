"""All solids together, and the first one that a ray meets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene.synthetic.shapes import MISS, NDInt, Solid, dot
from scene.synthetic.textures import Array

_HUGE = 2.0  # metres; bounding spheres of walls and floors turn no ray away


class World:
    """Solids in groups that lie together; a group is skipped by rays that miss its bounding sphere.

    Attributes:
        solids: All solids; `cast` answers with numbers into this list.
        low: [3, 1] corner of the space that can be seen; surfaces outside of it get no light.
        high: [3, 1] the opposite corner.
    """

    def __init__(self, groups: list[list[Solid]], low: Array, high: Array) -> None:
        """Takes the groups, largest first if speed matters: the order changes no answer."""
        self.low, self.high = low, high
        self.solids = [solid for group in groups for solid in group]
        self._centers = np.concatenate([s.center for s in self.solids], axis=1)
        self._radii = np.array([s.shape.radius for s in self.solids], np.float32)
        self._groups: list[tuple[Array, float, list[tuple[int, Solid]]]] = []
        number = 0
        for group in groups:
            centers = np.concatenate([s.center for s in group], axis=1)
            center = (centers.min(1, keepdims=True) + centers.max(1, keepdims=True)) / 2
            reach = np.linalg.norm(centers - center, axis=0) + [s.shape.radius for s in group]
            self._groups.append((center, float(reach.max()), list(enumerate(group, number))))
            number += len(group)

    def cast(
        self, o: Array, d: Array, limit: Array | None = None, *, beam: bool = False
    ) -> tuple[Array, NDInt]:
        """First hits of rays.

        Args:
            o: [3, M] origins, outside of every solid.
            d: [3, M] unit directions.
            limit: [M] distances beyond which nothing counts; None for none.
            beam: All rays start at one point and go about the same way, so that whole groups can be
                skipped at once. Only a hint: the answer is the same.

        Returns:
            Distance [M] (the limit, or `MISS`, where nothing is met) and the solid's number [M]
            (-1 where nothing is met).
        """
        best = np.full(d.shape[1], MISS) if limit is None else limit.copy()
        which = np.full(d.shape[1], -1, np.int64)
        hidden = self._outside_beam(o, d) if beam else np.zeros(len(self.solids), bool)
        for center, radius, group in self._groups:
            members = [(number, solid) for number, solid in group if not hidden[number]]
            if not members:
                continue
            if radius > _HUGE:
                near = np.arange(best.size)
            else:
                near = _meets(center, radius, o, d, best)
            if not near.size:
                continue
            whole = near.size == best.size
            some_o, some_d, some_best = (o, d, best.copy()) if whole else (o[:, near], d[:, near], best[near])
            for number, solid in members:
                if len(members) == 1:
                    mine = np.arange(near.size)
                    found = solid.enter(some_o, some_d)
                else:
                    mine = _meets(solid.center, solid.shape.radius, some_o, some_d, some_best)
                    if not mine.size:
                        continue
                    found = solid.enter(some_o[:, mine], some_d[:, mine])
                closer = np.flatnonzero(found < some_best[mine])
                rows = mine[closer]
                some_best[rows] = best[near[rows]] = found[closer]
                which[near[rows]] = number
        return best, which

    def _outside_beam(self, o: Array, d: Array) -> NDArray[np.bool_]:
        """Solids whose bounding spheres surely lie outside of the cone that holds all rays [solids]."""
        axis = d.mean(1)
        axis /= np.linalg.norm(axis) + 1e-9
        half = np.arccos(np.clip((axis @ d).min(), -1, 1)) + 1e-3
        to = self._centers - o[:, :1]
        distance = np.sqrt(dot(to, to)) + 1e-9
        angle = np.arccos(np.clip(axis @ to / distance, -1, 1))
        reach = np.arcsin(np.clip(self._radii / distance, 0, 1))
        return (distance > self._radii) & (angle - reach > half)


def _meets(center: Array, radius: float, o: Array, d: Array, best: Array) -> NDInt:
    """Rays [K] that come within `radius` of `center`, not behind them, not beyond their best hit."""
    to = center - o
    along = dot(to, d)
    off = dot(to, to) - along * along
    return np.flatnonzero((off < radius * radius) & (along > -radius) & (along - radius < best))
