"""Proximity-guided unpooling: new Gaussians between those that stand apart (FSGS, Zhu et al. 2023).

Each Gaussian is tied to its nearest neighbours; where the mean of their distances is large, one is added in
the middle of every tie, with all that its neighbour is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

NEIGHBOURS = 3
"""Ties of each Gaussian."""


@dataclass(frozen=True)
class Unpooled:
    """A new Gaussians, A >= 0."""

    like: Tensor
    """[A] int64: the neighbour whose shape, opacity and colour each takes."""
    means: Tensor
    """[A, 3]: middles of the ties, world units."""


def unpool(means: Tensor, distance: float, room: int | None) -> Unpooled:
    """Middles of the ties of those whose proximity score exceeds a distance.

    The score is the mean Euclidean distance to the 3 nearest others. A tie between two counts once, the
    first of them taking it; a tie of no length is left out.

    Args:
        means: [N, 3], world units; a row that is not finite is left out.
        distance: the score to exceed, world units.
        room: how many may be added, the highest scores first; None = any number.
    """
    device = means.device
    rows = means.detach().isfinite().all(dim=-1).nonzero().squeeze(-1)
    positions = means.detach()[rows].cpu().double().numpy()
    ties = min(NEIGHBOURS, len(positions) - 1)
    if ties < 1 or room == 0:
        return Unpooled(rows[:0], means.detach()[:0])
    lengths, nearest = cKDTree(positions).query(positions, k=ties + 1, workers=-1)
    lengths, nearest = _others(lengths, nearest)
    score = lengths.mean(axis=1)
    apart = np.flatnonzero(score > distance)
    apart = apart[np.argsort(-score[apart], kind="stable")]
    ends = np.stack([np.repeat(apart, ties), nearest[apart].reshape(-1)], axis=1)
    ends = ends[lengths[apart].reshape(-1) > 0.0]
    _, first = np.unique(np.sort(ends, axis=1), axis=0, return_index=True)
    ends = ends[np.sort(first)][:room]
    middles = 0.5 * (positions[ends[:, 0]] + positions[ends[:, 1]])
    like = rows[torch.from_numpy(ends[:, 1]).to(device)]
    return Unpooled(like, torch.from_numpy(middles).to(device, means.dtype))


def _others(lengths: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The answers [N, k + 1] without each row itself, which need not come first among equal positions."""
    count, found = nearest.shape
    itself = nearest == np.arange(count)[:, None]
    itself[~itself.any(axis=1), found - 1] = True  # more equal positions than were asked for
    return lengths[~itself].reshape(count, found - 1), nearest[~itself].reshape(count, found - 1)
