"""What every backend keeps to: gsplat 1.5.3's call, the constants of its compositing rule, its output.

The front door (`rasterizer.rasterization`) checks shapes and refuses what a backend cannot do, so a
backend sees validated input only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

# The compositing rule of gsplat 1.5.3 (rasterize_to_pixels_3dgs_fwd); native/src/api.h has the same.
MIN_ALPHA = 1.0 / 255.0  # a contribution below it is skipped
MAX_ALPHA = 0.999  # the opacity of one splat at one pixel is clamped to it
MIN_TRANSMITTANCE = 1e-4  # a pixel ends before its transmittance would reach it
TILE_SIZE = 16  # pixels
MAX_EXTENT_SIGMAS = 3.33  # half-width of a splat's box: where an opacity of 1 falls to 1/255

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
RENDER_MODES: tuple[str, ...] = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
MAX_SH_DEGREE = 4


@dataclass(frozen=True)
class RenderOutput:
    """Images of C cameras.

    Attributes:
        color: [C, H, W, 3], linear in the Gaussians' colours, not clamped to [0, 1].
        depth: [C, H, W] camera-space z: accumulated (D) or expected (ED); 0 where nothing was hit.
        alpha: [C, H, W] in [0, 1]: accumulated opacity.
        info: the rasterizer's meta (means2d, radii, depths, conics, opacities, n_cameras, ...).
    """

    color: Tensor
    depth: Tensor
    alpha: Tensor
    info: dict[str, Any] = field(repr=False)
