"""Rotations by quaternions, w first and of any norm; per row, so that no result depends on the threads."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def rotate(quats: Tensor, vectors: Tensor, *, inverse: bool = False) -> Tensor:
    """Rotate vectors [..., 3] by quaternions [..., 4] (wxyz, any norm; zero is the identity)."""
    unit = functional.normalize(quats, dim=-1)
    w, axis = unit[..., :1], unit[..., 1:]
    axis = -axis if inverse else axis
    # v + 2 w (u x v) + 2 u x (u x v); for u = 0 that is v, whatever w is.
    axis, vectors = torch.broadcast_tensors(axis, vectors)
    cross = torch.linalg.cross(axis, vectors)
    return vectors + 2.0 * (w * cross + torch.linalg.cross(axis, cross))


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (wxyz, any norm; zero is the identity)."""
    axes = torch.eye(3, dtype=quats.dtype, device=quats.device)
    return rotate(quats[..., None, :], axes).transpose(-1, -2)  # of rows that are the axes' images
