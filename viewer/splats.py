"""A copy of the Gaussians in the form in which a browser draws them.

A browser's splats have one colour each. What the Gaussians look like from one place is taken, the place of
who looks: without the rest of their spherical harmonics they would be several dB from the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaussian_model import Gaussians, rotation_matrices
from rasterizer.reference import sh_basis
from scene.geometry import Vector
from viewer.frame import Frame

LIMIT = 300_000  # splats: 10 MB for the browser, and what an integrated GPU still turns smoothly
_INVISIBLE = 1.0 / 255.0  # opacity below which no pixel changes
_WIDEST = 250.0  # viewer units: its square is still a number in half precision

_UPPER = ((0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2))  # the upper triangle of a symmetric matrix, row by row


@dataclass(frozen=True, eq=False)
class Splats:
    """n Gaussians in viewer units; arrays of its own, which no training changes. 28 bytes a splat.

    Attributes:
        centers: [n, 3] float32.
        triangles: [n, 6] float16, the upper triangle of the covariance, row by row.
        colours: [n, 4] uint8, red, green, blue and opacity.
        total: how many Gaussians there are, of which these n are shown.
    """

    centers: NDArray[np.float32]
    triangles: NDArray[np.float16]
    colours: NDArray[np.uint8]
    total: int

    def __len__(self) -> int:
        """Number n of splats."""
        return len(self.centers)

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return self.centers.nbytes + self.triangles.nbytes + self.colours.nbytes

    def covariances(self) -> NDArray[np.float32]:
        """[n, 3, 3], viewer units squared."""
        full = np.empty((len(self), 3, 3), np.float32)
        for column, (i, j) in enumerate(zip(*_UPPER, strict=True)):
            full[:, i, j] = full[:, j, i] = self.triangles[:, column]
        return full


@torch.no_grad()
def take_splats(gaussians: Gaussians, frame: Frame, place: Vector, limit: int = LIMIT) -> Splats:
    """Copies what can be seen of the Gaussians; changes nothing and draws no random number.

    Left out are those whose numbers are not finite, those too faint to see, and of more than `limit` the
    smallest and faintest.

    Args:
        gaussians: N >= 0 of them, on any device.
        frame: the viewer's units.
        place: [3] world position from which colours are taken.
        limit: the largest n.
    """
    params = {key: value.detach() for key, value in gaussians.params.items()}
    opacities, scales = gaussians.linear_opacities(), gaussians.linear_scales()
    seen = opacities > _INVISIBLE  # false for NaN
    for value in (params["means"], scales, params["quats"], params["sh0"].flatten(1)):
        seen &= value.isfinite().all(1)
    seen &= params["quats"].square().sum(1) > 0
    rows = seen.nonzero()[:, 0]
    if len(rows) > limit:
        widest = scales[rows].topk(2, dim=1).values
        weight = opacities[rows] * widest.prod(1)
        rows = rows[weight.topk(limit).indices.sort().values]
    means = params["means"][rows]
    sizes = (scales[rows] * frame.scale).clamp_max(_WIDEST)
    axes = rotation_matrices(params["quats"][rows]) * sizes[:, None, :]
    covariances = axes @ axes.transpose(1, 2)
    rgb = _colours(params, rows, place, gaussians.max_sh_degree)
    rgba = torch.cat([rgb, opacities[rows, None]], 1) * 255.0
    centre = torch.as_tensor(frame.centre, dtype=torch.float64, device=means.device)
    return Splats(
        ((means.double() - centre) * frame.scale).float().cpu().numpy(),
        covariances[:, _UPPER[0], _UPPER[1]].half().cpu().numpy(),
        rgba.round().byte().cpu().numpy(),
        len(gaussians),
    )


def _colours(params: dict[str, Tensor], rows: Tensor, place: Vector, degree: int) -> Tensor:
    """Colours [n, 3] in [0, 1] as seen from `place`."""
    means = params["means"][rows]
    coefficients = torch.cat([params["sh0"][rows], params["shN"][rows]], 1)
    away = means - torch.as_tensor(place, dtype=means.dtype, device=means.device)
    basis = sh_basis(degree, torch.nn.functional.normalize(away, dim=-1))
    return (torch.einsum("nk,nkd->nd", basis, coefficients) + 0.5).nan_to_num(0.5).clamp(0.0, 1.0)
