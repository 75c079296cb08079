"""Gaussians as the plain numbers that file formats are made of, and the orders in which files hold them.

What leaves this module is finite, within the range of float32, and has unit quaternions: no format can
write NaN from it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gaussian_model import Gaussians

Floats = NDArray[np.float32]

LARGEST_LOG_SCALE = 30.0
"""e^30 and e^-30 world units are beyond any scene; exp and its square stay finite in float32."""
_MORTON_BITS = 21  # per axis; three of them fill 63 bits


@dataclass(frozen=True, eq=False)
class Splats:
    """N Gaussians.

    Attributes:
        means: [N, 3] world units.
        quats: [N, 4] of length 1, w x y z.
        log_scales: [N, 3] logarithms of standard deviations, within +-LARGEST_LOG_SCALE.
        opacities: [N] in [0, 1].
        sh0: [N, 3] coefficients of SH degree 0.
        shN: [N, K-1, 3] the others.
    """

    means: Floats
    quats: Floats
    log_scales: Floats
    opacities: Floats
    sh0: Floats
    shN: Floats

    @classmethod
    def of(cls, gaussians: Gaussians) -> Splats:
        """The numbers of Gaussians whose stored values are finite (`selection.select` sees to that)."""
        state = {key: value.cpu().float() for key, value in gaussians.state_dict().items()}
        quats = state["quats"].double()
        norms = quats.norm(dim=-1, keepdim=True)
        identity = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
        quats = torch.where(norms > 0, quats / norms.clamp_min(1e-300), identity)
        return cls(
            state["means"].numpy(),
            quats.float().numpy(),
            state["scales"].clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE).numpy(),
            gaussians.linear_opacities().detach().cpu().float().numpy(),
            state["sh0"][:, 0].numpy(),
            state["shN"].numpy(),
        )

    def __len__(self) -> int:
        """Number N of Gaussians."""
        return len(self.means)

    @property
    def degree(self) -> int:
        """SH degree."""
        return round((self.shN.shape[1] + 1) ** 0.5) - 1

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Splats:
        """Some of them, in the order of `chosen` (indices, or a mask)."""
        return Splats(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def up_to_degree(self, degree: int) -> Splats:
        """Without the SH coefficients above `degree`, if there are any."""
        return replace(self, shN=np.ascontiguousarray(self.shN[:, : (degree + 1) ** 2 - 1]))

    def log_importance(self) -> NDArray[np.float64]:
        """How much each can matter in a picture, [N], as a logarithm: opacity times the largest area shown.

        That area is the product of the two larger axes, up to a constant.
        """
        larger = np.sort(self.log_scales.astype(np.float64), axis=1)[:, 1:].sum(axis=1)
        return np.log(np.maximum(self.opacities.astype(np.float64), 1e-30)) + larger


def morton_order(means: Floats) -> NDArray[np.int64]:
    """The order [N] along a curve that keeps neighbours in space close (Morton's z-curve)."""
    if not len(means):
        return np.zeros(0, dtype=np.int64)
    low, high = means.min(axis=0).astype(np.float64), means.max(axis=0).astype(np.float64)
    size = np.where(high > low, high - low, 1.0)
    cells = ((means - low) / size * (2**_MORTON_BITS - 1)).astype(np.uint64)
    code = np.zeros(len(means), dtype=np.uint64)
    for axis in range(3):
        code |= _spread(cells[:, axis]) << np.uint64(axis)
    return np.argsort(code, kind="stable")


def _spread(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Moves bit i of 21 bits to bit 3 i."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        x = (x | (x << np.uint64(shift))) & np.uint64(mask)
    return x
