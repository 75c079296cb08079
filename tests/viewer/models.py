"""Small models and cameras for the viewer's tests."""

from __future__ import annotations

import numpy as np
import torch

from gaussian_model import Gaussians
from scene import Camera
from scene.geometry import camera_at, look_along


def some_gaussians(n: int, seed: int = 0, degree: int = 2) -> Gaussians:
    """n Gaussians around the origin, with colours that depend on the direction."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random)

    return Gaussians(
        {
            "means": normal(n, 3),
            "quats": normal(n, 4),
            "scales": normal(n, 3) * 0.5 - 2.0,
            "opacities": normal(n) + 1.0,
            "sh0": normal(n, 1, 3),
            "shN": 0.2 * normal(n, (degree + 1) ** 2 - 1, 3),
        }
    )


def ring(n: int, radius: float = 3.0, centre: tuple[float, float, float] = (10.0, -5.0, 2.0)) -> list[Camera]:
    """n cameras on half a circle that look at `centre`; y is down."""
    middle, like = np.array(centre), Camera(torch.eye(4), _intrinsics(96, 64), 96, 64)
    cameras = []
    for angle in np.linspace(0, np.pi, n):
        place = middle + radius * np.array([np.cos(angle), -0.3, np.sin(angle)])
        cameras.append(camera_at(look_along(middle - place, np.array([0.0, -1.0, 0.0])), place, like))
    return cameras


def _intrinsics(width: int, height: int) -> torch.Tensor:
    return torch.tensor([[80.0, 0.0, width / 2], [0.0, 80.0, height / 2], [0.0, 0.0, 1.0]])
