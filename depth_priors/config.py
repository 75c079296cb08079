"""What a user may choose about depth and about the points that training starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from errors import UserError


@dataclass(frozen=True)
class DepthConfig:
    """Options of the depth priors.

    Raises:
        UserError: from `check`, for a value that has no meaning, or a file that is not there.
    """

    init: str = "auto"
    """Points to start from: `sfm` (the scene's own), `mvs` (dense ones by stereo between the training views,
    and the scene's), `random`, or a .ply file of coloured points (COLMAP's fused.ply). auto: sfm, or mvs
    where the scene has no points. What cannot be had is replaced by the other, or by random points."""
    init_spacing: float = 4.0
    """mvs: distance of neighbouring points, in pixels of the photographs."""

    def check(self) -> None:
        """Refuses values that are wrong for every scene."""
        if not self.init_spacing >= 0.5 or not math.isfinite(self.init_spacing):
            raise UserError(f"--init_spacing: expected at least 0.5 (pixels), got {self.init_spacing}")
        if self.init not in ("auto", "sfm", "mvs", "random") and not self.init.lower().endswith(".ply"):
            raise UserError(
                f"--init: expected auto, sfm, mvs, random or a .ply file of points, got {self.init!r}"
            )
        if self.init.lower().endswith(".ply") and not Path(self.init).expanduser().is_file():
            raise UserError(
                f"--init: {self.init}: no such file; give a .ply of points, or auto, sfm, mvs or random"
            )
