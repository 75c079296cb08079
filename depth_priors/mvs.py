"""The built-in prior: multi-view stereo over the training views, and its completion."""

from __future__ import annotations

import dataclasses
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
from depth_priors.sfm import anchor_depths
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
ANCHORED, COMPLETED = 0.5, 0.1
"""Confidence of a point of structure from motion where stereo is unsure, and of what is filled in."""


def stereo_priors(
    views: Sequence[View],
    surroundings: Sequence[Surroundings],
    *,
    progress: Callable[[], None] = lambda: None,
) -> list[DepthPrior | None]:
    """World-frame depth where other views agree; None for a view where stereo cannot say enough.

    Value and confidence are 0 elsewhere; see `completed`.
    """
    maps = stereo_maps(views, surroundings, progress=progress)
    priors: list[DepthPrior | None] = []
    for view, around, found in zip(views, surroundings, maps, strict=True):
        if found is None:
            _log.warning("%s: stereo: no other view sees the same under a useful angle", view.name)
            priors.append(None)
            continue
        confidence = stereo_confidence(found, around)
        used = usable_pixels(view)
        total = confidence.numel() if used is None else int(used.sum())
        share = int((confidence > 0).sum()) / max(total, 1)
        if share < LEAST_COVERAGE:
            _log.warning(
                "%s: stereo: only %.0f %% of the pixels agree with other views", view.name, 100 * share
            )
            priors.append(None)
            continue
        value = torch.where(confidence > 0, found.inverse, 0.0)
        priors.append(DepthPrior(value, "inverse", "world", confidence, "mvs"))
    return priors


def stereo_confidence(found: StereoMap, around: Surroundings) -> Tensor:
    """[H, W] in [0, 1]: how many neighbours agree, of two (or the only one); 0 on small lone pieces."""
    agreed = found.agreeing.numpy() > 0
    least, most = 1.0 / around.far, 1.0 / around.near
    levels = np.clip((found.inverse.numpy() - least) / (most - least), 0.0, 1.0) * 16000.0
    pieces = np.where(agreed, levels, -1.0).astype(np.int16)
    cv2.filterSpeckles(pieces, -1, max(1, round(SPECKLE * pieces.size)), 16000.0 * SPECKLE_STEP)
    enough = min(ENOUGH, len(around.neighbours))
    return (found.agreeing / enough).clamp(max=1.0) * torch.from_numpy((pieces >= 0).astype(np.float32))


def completed(view: View, points: NDArray[np.float64], prior: DepthPrior) -> DepthPrior:
    """A prior everywhere in the picture, of low confidence where it was 0.

    Args:
        view: its photograph says where surfaces may end.
        points: [n, 3], of structure from motion; they hold the filled depth where nothing else does.
        prior: world frame, inverse depth, confident somewhere.
    """
    value, confidence = prior.value.numpy().copy(), prior.confidence.numpy().copy()
    anchors = anchor_depths(view, points)
    free = (confidence == 0) & (anchors > 0)
    value[free], confidence[free] = anchors[free], ANCHORED
    filled = complete(value, confidence, view.pixels.numpy().astype(np.float32) / 255.0)
    known = np.maximum(confidence, np.float32(COMPLETED))
    used = usable_pixels(view)
    if used is not None:
        known *= used.numpy()
    return dataclasses.replace(prior, value=torch.from_numpy(filled), confidence=torch.from_numpy(known))
