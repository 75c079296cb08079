"""The scene as Gaussians: parameters, first values, optimizer, row edits, densification, .ply files.

Does not render (rasterizer), does not know losses, runs no loop. Everything random draws from a CPU
generator that is handed in, and no result depends on the number of threads.
"""

from __future__ import annotations

from gaussian_model.densify import (
    DefaultDensifier,
    Densifier,
    DensifyConfig,
    DensifyReport,
    McmcConfig,
    McmcDensifier,
    NoDensifier,
    build_densifier,
)
from gaussian_model.edit import RowEdit, apply_edit
from gaussian_model.gaussians import Gaussians, ModelConfig
from gaussian_model.init import random_points
from gaussian_model.optimizer import (
    GaussianAdam,
    OptimConfig,
    active_sh_degree,
    means_learning_rate,
    set_learning_rates,
)
from gaussian_model.parameters import KEYS
from gaussian_model.ply import PlyError, load_ply, save_ply
from gaussian_model.regularise import RegulariseConfig, dropout_factors, dropped_sh_degree, hold_in_shape
from gaussian_model.rotation import rotation_matrices

__all__ = [
    "KEYS",
    "DefaultDensifier",
    "Densifier",
    "DensifyConfig",
    "DensifyReport",
    "GaussianAdam",
    "Gaussians",
    "McmcConfig",
    "McmcDensifier",
    "ModelConfig",
    "NoDensifier",
    "OptimConfig",
    "PlyError",
    "RegulariseConfig",
    "RowEdit",
    "active_sh_degree",
    "apply_edit",
    "build_densifier",
    "dropout_factors",
    "dropped_sh_degree",
    "hold_in_shape",
    "load_ply",
    "means_learning_rate",
    "random_points",
    "rotation_matrices",
    "save_ply",
    "set_learning_rates",
]
