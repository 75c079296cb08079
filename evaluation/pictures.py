"""Pictures for people: PNG files and depth maps in colour."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from atomic import atomic_write, write_bytes

_VISIBLE = 0.5  # alpha from which a pixel's depth means something


def depth_limits(depth: Tensor, alpha: Tensor | None = None) -> tuple[float, float] | None:
    """Nearest and farthest depth worth a colour: the 1st and 99th percentile of what is visible.

    Args:
        depth: [H, W] camera z.
        alpha: [H, W] in [0, 1]; None if all positive depths are visible.

    Returns:
        (near, far), or None where nothing is visible.
    """
    z, visible = _visible(depth, alpha)
    if not visible.any():
        return None
    near, far = np.percentile(z[visible], [1.0, 99.0])
    return float(near), float(far)


def colorize_depth(
    depth: Tensor, alpha: Tensor | None = None, *, limits: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Depth as colour (turbo): red is near, blue is far, black is nothing.

    Colours are even in inverse depth, which resolves near things as finely as the pictures do.

    Args:
        depth: [H, W] camera z in any unit; zero, negative or not finite is nothing.
        alpha: [H, W] in [0, 1]; below 0.5 is nothing. None if all counts.
        limits: (near, far) that get the ends of the scale; None takes them from this map.

    Returns:
        [H, W, 3] uint8, RGB.
    """
    z, visible = _visible(depth, alpha)
    limits = limits or depth_limits(depth, alpha)
    if limits is None:
        return np.zeros((*z.shape, 3), np.uint8)
    near, far = 1.0 / max(limits[0], 1e-12), 1.0 / max(limits[1], 1e-12)
    inverse = 1.0 / np.where(visible, z, 1.0)
    scale = (inverse - far) / (near - far) if near > far * (1 + 1e-6) else np.full_like(z, 0.5)
    gray = (np.clip(scale, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    color = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    color[~visible] = 0
    return np.asarray(color, np.uint8)


def _visible(depth: Tensor, alpha: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    z = depth.detach().double().cpu().numpy()
    visible = np.isfinite(z) & (z > 0)
    if alpha is not None:
        visible &= alpha.detach().cpu().numpy() >= _VISIBLE
    return z, visible


def save_png(path: Path, image: Tensor | NDArray[np.uint8]) -> None:
    """Writes an image [H, W, 3] uint8 RGB, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else image
    done, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path}: expected [H, W, 3] uint8, got {list(pixels.shape)} {pixels.dtype}")
    write_bytes(path, data.tobytes())


def save_npy(path: Path, values: Tensor) -> None:
    """Writes a tensor as float32 .npy, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    with atomic_write(path) as file:
        np.save(file, values.detach().float().cpu().numpy())
