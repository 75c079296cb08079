"""What training minimises: named, weighted scalars from rendered and true images.

Tensors in, scalars out: this room knows no model class. The sum that is differentiated and the log
come from the same dictionary.
"""

from __future__ import annotations

from losses.binocular import baseline_of, beside, draw_shift
from losses.depth import DepthLoss
from losses.image import l1_and_ssim, mean_squared_error, ssim, ssim_map
from losses.objective import LossConfig, Objective
from losses.pseudo import PseudoConfig, PseudoTarget, PseudoTargets

__all__ = [
    "DepthLoss",
    "LossConfig",
    "Objective",
    "PseudoConfig",
    "PseudoTarget",
    "PseudoTargets",
    "baseline_of",
    "beside",
    "draw_shift",
    "l1_and_ssim",
    "mean_squared_error",
    "ssim",
    "ssim_map",
]
