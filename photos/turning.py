"""Whether photographs were taken from one spot, by a camera that only turned: nothing then tells depth.

A turn moves the pixel at ray K^-1 x to K R K^-1 x, whatever is seen there. For each pair of photographs the
rotation is found that carries the matched rays over best (Kabsch), and the focal length for which this leaves
least over all pairs. Structure from motion can be fooled by such photographs: it may find a flat wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOCALS = tuple(float(f) for f in np.geomspace(0.5, 4.0, 41))
"""Focal lengths tried, in longer sides of the picture."""
QUANTILE = 0.75
"""Of the distances that a turn leaves between matched points of a pair: a quarter may be wrong matches."""


@dataclass(frozen=True)
class Matched:
    """Points that two photographs have in common."""

    one: NDArray[np.float64]
    """[M, 2], pixels from the picture's middle, in longer sides."""
    other: NDArray[np.float64]
    """[M, 2], of the other picture."""


def unexplained_by_turns(pairs: Sequence[Matched]) -> float:
    """What turns of the camera leave unexplained of the matches: a distance, in longer sides of the picture.

    Args:
        pairs: at least one, of at least three points each.

    Returns:
        The median over the pairs of a distance that three quarters of the points stay below, for the best
        focal length.
    """
    return min(float(np.median([_left(pair, focal) for pair in pairs])) for focal in FOCALS)


def _left(pair: Matched, focal: float) -> float:
    """The distance for one pair; the rotation is found twice, the second time without the worst points."""
    one, other = _rays(pair.one, focal), _rays(pair.other, focal)
    used = np.ones(len(one), bool)
    for _ in range(2):
        u, _, vt = np.linalg.svd(other[used].T @ one[used])
        turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        moved = one @ turn.T
        if (moved[:, 2] <= 1e-6).any():  # behind the camera: no turn
            return float("inf")
        distance = np.linalg.norm(focal * moved[:, :2] / moved[:, 2:] - pair.other, axis=1)
        limit = float(np.quantile(distance, QUANTILE))
        used = distance <= limit
    return limit


def _rays(points: NDArray[np.float64], focal: float) -> NDArray[np.float64]:
    rays = np.concatenate([points / focal, np.ones((len(points), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)
