"""The built-in prior: multi-view stereo over the training views, completed where views disagree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depth_priors.completion import complete
from depth_priors.neighbours import Surroundings
from depth_priors.prior import DepthPrior
from depth_priors.stereo import StereoMap, stereo_maps, usable_pixels
from scene import View

_log = logging.getLogger(__name__)

NEIGHBOURS = 4
"""Neighbours of a view that stereo compares it with."""
ENOUGH = 2
"""Neighbours that agree on a pixel whose confidence is 1; a view with one neighbour needs that one."""
SPECKLE = 1e-3
"""Share of the picture below which a piece of surface that lies apart is taken for an error."""
SPECKLE_STEP = 0.01
"""Step in inverse depth, as a share of its range, that parts pieces."""
LEAST_COVERAGE = 0.05
"""Share of confident pixels below which a view gets no prior."""
COMPLETED = 0.1
"""Confidence of what is filled in."""


def stereo_priors(
    views: Sequence[View],
    surroundings: Sequence[Surroundings],
    *,
    progress: Callable[[], None] = lambda: None,
) -> tuple[list[DepthPrior | None], list[StereoMap | None]]:
    """A world-frame prior for each view, None where stereo cannot say enough; and the maps behind it."""
    maps = stereo_maps(views, surroundings, progress=progress)
    priors: list[DepthPrior | None] = []
    for view, around, found in zip(views, surroundings, maps, strict=True):
        if found is None:
            _log.warning("%s: stereo: no other view sees the same under a useful angle", view.name)
            priors.append(None)
            continue
        confidence = stereo_confidence(found, around)
        used = usable_pixels(view)
        share = float(
            (confidence > 0).float().sum() / (used.sum() if used is not None else confidence.numel())
        )
        if share < LEAST_COVERAGE:
            _log.warning(
                "%s: stereo: only %.0f %% of the pixels agree with other views", view.name, 100 * share
            )
            priors.append(None)
            continue
        priors.append(_completed(view, around, found, confidence))
    return priors, maps


def stereo_confidence(found: StereoMap, around: Surroundings) -> Tensor:
    """[H, W] in [0, 1]: how many neighbours agree, of two (or the only one); 0 on small lone pieces."""
    agreed = found.agreeing.numpy() > 0
    least, most = 1.0 / around.far, 1.0 / around.near
    levels = np.clip((found.inverse.numpy() - least) / (most - least), 0.0, 1.0) * 16000.0
    pieces = np.where(agreed, levels, -1.0).astype(np.int16)
    cv2.filterSpeckles(pieces, -1, max(1, round(SPECKLE * pieces.size)), 16000.0 * SPECKLE_STEP)
    enough = min(ENOUGH, len(around.neighbours))
    return (found.agreeing / enough).clamp(max=1.0) * torch.from_numpy((pieces >= 0).astype(np.float32))


def _completed(view: View, around: Surroundings, found: StereoMap, confidence: Tensor) -> DepthPrior:
    weight = confidence.numpy().copy()
    value = np.where(weight > 0, found.inverse.numpy(), 0.0).astype(np.float32)
    _add_anchors(view, around.points, value, weight)
    image = view.pixels.numpy().astype(np.float32) / 255.0
    filled = complete(value, weight, image)
    result = np.where(weight > 0, value, filled)
    known = np.maximum(weight, COMPLETED).astype(np.float32)
    used = usable_pixels(view)
    if used is not None:
        known *= used.numpy()
    return DepthPrior(
        torch.from_numpy(result.astype(np.float32)), "inverse", "world", torch.from_numpy(known), "mvs"
    )


def _add_anchors(
    view: View, points: NDArray[np.float64], value: NDArray[np.float32], weight: NDArray[np.float32]
) -> None:
    """Sets the pixels of points of structure from motion where stereo has nothing."""
    if len(points) == 0:
        return
    viewmat, K = view.camera.viewmat.double().numpy(), view.camera.K.double().numpy()
    local = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    local = local[local[:, 2] > 0]
    pixel = local @ K.T / local[:, 2:]
    x, y = np.floor(pixel[:, 0]).astype(np.int64), np.floor(pixel[:, 1]).astype(np.int64)
    height, width = value.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y, z = x[inside], y[inside], local[inside, 2]
    order = np.argsort(-z, kind="stable")  # the nearest of a pixel last, so that it stays
    x, y, z = x[order], y[order], z[order]
    free = weight[y, x] == 0
    value[y[free], x[free]] = 1.0 / z[free]
    weight[y[free], x[free]] = 1.0
