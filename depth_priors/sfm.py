"""Depth at the points of structure from motion: few pixels, in the world's units."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from depth_priors.prior import DepthPrior
from scene import View, project

FEWEST = 12
"""Pixels below which a view gets no prior."""


def sfm_prior(view: View, points: NDArray[np.float64]) -> DepthPrior | None:
    """Inverse depth where a view sees points [n, 3] of structure from motion; None where these are few."""
    value = anchor_depths(view, points)
    confidence = (value > 0).astype(np.float32)
    if confidence.sum() < FEWEST:
        return None
    return DepthPrior(torch.from_numpy(value), "inverse", "world", torch.from_numpy(confidence), "sfm")


def anchor_depths(view: View, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """[H, W] inverse depth of the nearest point of each pixel, 0 where there is none."""
    found = project(view.camera, points)
    x, y, z = (part[found.inside] for part in (found.x, found.y, found.z))
    order = np.argsort(-z, kind="stable")  # the nearest last, so that it stays
    value = np.zeros((view.camera.height, view.camera.width), np.float32)
    value[y[order], x[order]] = 1.0 / z[order]
    return value
