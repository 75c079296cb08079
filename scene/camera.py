"""The pinhole camera that everything after loading speaks of.

OpenCV axes (x right, y down, z forward), world-to-camera, pixel centres at +0.5, lens distortion
already removed. Nothing here reads files.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    Raises:
        ValueError: If a shape or the size is wrong.
    """

    viewmat: Tensor
    """[4, 4] float32, world-to-camera."""
    K: Tensor
    """[3, 3] float32, pixels; the principal point need not be the centre."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""

    def __post_init__(self) -> None:
        """Checks shapes, so that a wrong matrix fails where it is made."""
        if self.viewmat.shape != (4, 4):
            raise ValueError(f"viewmat: expected [4, 4], got {list(self.viewmat.shape)}")
        if self.K.shape != (3, 3):
            raise ValueError(f"K: expected [3, 3], got {list(self.K.shape)}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"size: expected at least 1x1, got {self.width}x{self.height}")

    @property
    def center(self) -> Tensor:
        """Position in the world, [3]; differentiable in `viewmat`."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def to(self, device: torch.device | str) -> Camera:
        """The same camera with its tensors on `device`."""
        return Camera(self.viewmat.to(device), self.K.to(device), self.width, self.height)

    def resized(self, width: int, height: int) -> Camera:
        """The same view on another pixel grid; focal lengths and principal point scale per axis.

        Exact because pixel coordinates are those of edges (centre at +0.5): no half-pixel shift.
        """
        scale = self.K.new_tensor([width / self.width, height / self.height, 1.0])
        return Camera(self.viewmat, self.K * scale[:, None], width, height)
