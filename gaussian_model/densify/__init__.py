"""When and how the number of Gaussians changes: 3DGS's adaptive density control, MCMC, or nothing.

A densifier sees the rasterizer's meta after backward (`collect`) and may change the Gaussians after
the optimizer's step (`refine`). It decides; `edit.apply_edit` alone changes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from gaussian_model.densify.config import DensifyConfig, McmcConfig
from gaussian_model.densify.default import DefaultDensifier
from gaussian_model.densify.front import EmptySpace
from gaussian_model.densify.mcmc import McmcDensifier
from gaussian_model.densify.protocol import Densifier, DensifyReport, NoDensifier
from scene import Camera

log = logging.getLogger(__name__)

__all__ = [
    "DefaultDensifier",
    "Densifier",
    "DensifyConfig",
    "DensifyReport",
    "McmcConfig",
    "McmcDensifier",
    "NoDensifier",
    "build_densifier",
]


def build_densifier(
    config: DensifyConfig,
    extent: float,
    generator: torch.Generator,
    *,
    cameras: Sequence[Camera] = (),
    points: Tensor | None = None,
) -> Densifier:
    """The densifier that the config names.

    Args:
        config: `strategy` chooses.
        extent: scene extent, world units; scales are judged relative to it.
        generator: CPU generator of every draw; its state is the caller's to save.
        cameras: the training cameras, for `prune_near`.
        points: [P, 3], the scene's, world units, likewise.
    """
    if config.strategy == "default":
        empty = None
        if config.prune_near > 0.0:
            empty = EmptySpace(cameras, torch.zeros(0, 3) if points is None else points, config.prune_near)
            if not empty.cameras:
                log.warning("densify.prune_near: no camera sees enough scene points: nothing is pruned by it")
        return DefaultDensifier(config, extent, generator, empty)
    if config.strategy == "mcmc":
        return McmcDensifier(config, generator)
    return NoDensifier()
