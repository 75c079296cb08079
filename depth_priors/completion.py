"""Filling a map where nothing is known, along what looks alike in the photograph.

Weighted least squares by alternating solves along rows and columns (Min et al., Fast Global Image
Smoothing, 2014): each pixel is drawn to its known value and to its neighbours, the less the more their
colours differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 3
SMOOTHNESS = 200.0
"""How far values reach, in pixels squared, where the colour does not change."""
COLOUR = 0.03
"""Difference of colour (of 1) at which neighbours are tied 1/e as strongly."""
FAINT = 1e-6
"""Weight of the mean of all known values, for pixels that nothing reaches."""


def complete(
    value: NDArray[np.float32], weight: NDArray[np.float32], image: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The map everywhere: as given where the weight is above 0, filled smoothly elsewhere.

    Args:
        value: [H, W]; what lies where the weight is 0 is not read.
        weight: [H, W] >= 0, somewhere > 0; larger weights pull what is around them more.
        image: [H, W, 3] in [0, 1].

    Raises:
        ValueError: no weight anywhere.
    """
    total = float(weight.sum(dtype=np.float64))
    if total <= 0.0:
        raise ValueError("weight: expected some values above 0, all are 0")
    known = np.where(weight > 0, value, 0.0).astype(np.float64)
    amount = weight.astype(np.float64)
    mean = float((known * amount).sum() / total)
    top, bottom = known * amount + FAINT * mean, amount + FAINT
    across = np.exp(-np.abs(np.diff(image, axis=1)).mean(-1) / COLOUR)
    down = np.exp(-np.abs(np.diff(image, axis=0)).mean(-1) / COLOUR)
    for turn in range(ROUNDS):
        pull = SMOOTHNESS * 1.5 * 4.0 ** (ROUNDS - 1 - turn) / (4.0**ROUNDS - 1.0)
        top, bottom = _solve_rows(top, bottom, pull * across)
        top, bottom = (x.T for x in _solve_rows(top.T, bottom.T, pull * down.T))
    return np.where(weight > 0, known, top / bottom).astype(np.float32)


def _solve_rows(
    a: NDArray[np.float64], b: NDArray[np.float64], ties: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solves (1 + laplacian(ties)) x = a, and = b, along every row: tridiagonal, by Thomas's algorithm."""
    rows, columns = a.shape
    left = np.concatenate([np.zeros((rows, 1)), ties], 1)
    right = np.concatenate([ties, np.zeros((rows, 1))], 1)
    diagonal = 1.0 + left + right
    upper, x, y = np.empty_like(diagonal), np.empty_like(diagonal), np.empty_like(diagonal)
    for i in range(columns):
        before = i - 1 if i else 0
        scale = 1.0 / (diagonal[:, i] - left[:, i] * (upper[:, before] if i else 0.0))
        upper[:, i] = right[:, i] * scale
        x[:, i] = (a[:, i] + (left[:, i] * x[:, before] if i else 0.0)) * scale
        y[:, i] = (b[:, i] + (left[:, i] * y[:, before] if i else 0.0)) * scale
    for i in range(columns - 2, -1, -1):
        x[:, i] += upper[:, i] * x[:, i + 1]
        y[:, i] += upper[:, i] * y[:, i + 1]
    return x, y
