"""`.splat`: 32 bytes a Gaussian, the format of the first web viewers (antimatter15/splat).

Position and standard deviations as float32, one colour and opacity as bytes, the quaternion (w x y z) as
bytes around 128. No header; the most important Gaussian comes first, since viewers draw while they load.
"""

from __future__ import annotations

import numpy as np

from exporting.splats import Floats, Splats

MAX_DEGREE = 0
_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def encode(splats: Splats, colours: Floats) -> bytes:
    """The file's bytes, for N Gaussians of colours [N, 3] in [0, 1]."""
    order = np.argsort(-splats.log_importance(), kind="stable")
    splats = splats.rows(order)
    out = np.empty(len(splats), dtype=_RECORD)
    out["mean"] = splats.means
    out["scale"] = np.exp(splats.log_scales)
    out["rgba"][:, :3] = _byte(colours[order] * 255.0)
    out["rgba"][:, 3] = _byte(splats.opacities * 255.0)
    out["quat"] = _byte(splats.quats * 128.0 + 128.0)
    return out.tobytes()


def _byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
