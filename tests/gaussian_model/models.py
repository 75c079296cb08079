"""Small models and metas that the tests of this room share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaussian_model import KEYS, GaussianAdam, Gaussians, OptimConfig
from scene import Camera, View


def random_gaussians(count: int, degree: int = 1, seed: int = 0) -> Gaussians:
    """Gaussians whose every stored value is random."""
    g = torch.Generator().manual_seed(seed)
    bases = (degree + 1) ** 2
    return Gaussians(
        {
            "means": torch.randn(count, 3, generator=g),
            "quats": torch.randn(count, 4, generator=g),
            "scales": torch.randn(count, 3, generator=g) - 4.0,
            "opacities": torch.randn(count, generator=g) * 3.0 - 1.0,
            "sh0": torch.randn(count, 1, 3, generator=g),
            "shN": torch.randn(count, bases - 1, 3, generator=g),
        }
    )


def stepped_optimizer(gaussians: Gaussians, seed: int = 1) -> GaussianAdam:
    """An optimizer that has made one step with random gradients, so that every moment is non-zero."""
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    step_at_random(gaussians, optimizer, torch.Generator().manual_seed(seed))
    return optimizer


def step_at_random(gaussians: Gaussians, optimizer: GaussianAdam, generator: torch.Generator) -> None:
    for parameter in gaussians.params.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()


def meta(count: int, cameras: int, generator: torch.Generator, *, width: int = 40, height: int = 30) -> dict:
    """What the rasterizer's meta looks like after backward: random gradients, a third culled."""
    means2d = torch.zeros(cameras, count, 2, requires_grad=True)
    means2d.grad = torch.randn(cameras, count, 2, generator=generator) * 1e-4
    means2d.absgrad = means2d.grad.abs() * 3.0  # type: ignore[attr-defined]
    radii = torch.randint(0, 3, (cameras, count, 1), generator=generator).repeat(1, 1, 2).int()
    return {
        "means2d": means2d,
        "radii": radii,
        "width": width,
        "height": height,
        "n_cameras": cameras,
        "gaussian_ids": None,
    }


def snapshot(gaussians: Gaussians, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copies of all values and moments, by name."""
    out: dict[str, Tensor] = {}
    for key in KEYS:
        parameter = gaussians.params[key]
        out[key] = parameter.detach().clone()
        for name, value in optimizer.state.get(parameter, {}).items():
            out[f"{key}.{name}"] = value.clone()
    return out


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), f"{name} differs"


def look_at(position: np.ndarray, target: np.ndarray, *, width: int = 32, height: int = 24) -> Camera:
    """A camera at `position` that looks at `target`, y down."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ position
    focal = width / (2.0 * math.tan(0.5))
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Camera(
        torch.tensor(viewmat, dtype=torch.float32), torch.tensor(K, dtype=torch.float32), width, height
    )


def view_of(camera: Camera, *, color: int = 200, **channels: Any) -> View:
    pixels = torch.full((camera.height, camera.width, 3), color, dtype=torch.uint8)
    return View(name="a.png", camera=camera, pixels=pixels, **channels)
