"""When and how the number of Gaussians changes: 3DGS's adaptive density control, MCMC, or nothing.

A densifier sees the rasterizer's meta after backward (`collect`) and may change the Gaussians after
the optimizer's step (`refine`). It decides; `edit.apply_edit` alone changes.
"""

from __future__ import annotations

import torch

from gaussian_model.densify.config import DensifyConfig, McmcConfig
from gaussian_model.densify.default import DefaultDensifier
from gaussian_model.densify.mcmc import McmcDensifier
from gaussian_model.densify.protocol import Densifier, DensifyReport, NoDensifier

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


def build_densifier(config: DensifyConfig, extent: float, generator: torch.Generator) -> Densifier:
    """The densifier that the config names.

    Args:
        config: `strategy` chooses.
        extent: scene extent, world units; scales are judged relative to it.
        generator: CPU generator of every draw; its state is the caller's to save.
    """
    if config.strategy == "default":
        return DefaultDensifier(config, extent, generator)
    if config.strategy == "mcmc":
        return McmcDensifier(config, generator)
    return NoDensifier()
