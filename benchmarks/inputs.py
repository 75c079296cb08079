"""What is rendered: files of fixed Gaussians, or generated ones of any number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from errors import UserError

KEYS = ("means", "quats", "scales", "opacities", "colors", "viewmat", "K", "width", "height")


@dataclass(frozen=True)
class Inputs:
    """Gaussians in front of one camera; shapes as in `rasterizer.rasterization`, colours plain RGB."""

    name: str
    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.means)


def load_inputs(path: Path) -> Inputs:
    """Reads a .npz with the arrays of `KEYS`.

    Raises:
        UserError: the file cannot be read or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise UserError(
                    f"{path}: expected the arrays {', '.join(KEYS)}; {', '.join(missing)} is missing"
                )
            arrays = {key: file[key] for key in KEYS}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a .npz of arrays: {error}") from error
    tensors = {key: torch.from_numpy(np.asarray(arrays[key])).float() for key in KEYS[:7]}
    return Inputs(
        path.stem,
        tensors["means"],
        tensors["quats"],
        tensors["scales"],
        tensors["opacities"],
        tensors["colors"],
        tensors["viewmat"][None],
        tensors["K"][None],
        int(arrays["width"]),
        int(arrays["height"]),
    )


def generate_inputs(count: int, width: int, height: int, seed: int = 0) -> Inputs:
    """Random Gaussians all over the image, as small as their number makes them in a trained scene.

    The typical standard deviation on the image is the spacing of the Gaussians if they lay in one layer,
    times 0.8; sizes and shapes are log-normal, opacities logistic-normal, depths uniform in [2, 6].
    """
    g = torch.Generator().manual_seed(seed)
    focal = float(width)
    z = 2.0 + 4.0 * torch.rand(count, generator=g)
    x = (torch.rand(count, generator=g) * 1.1 - 0.55) * width
    y = (torch.rand(count, generator=g) * 1.1 - 0.55) * height
    pixels = 0.8 * math.sqrt(width * height / count) * torch.exp(0.5 * torch.randn(count, generator=g))
    shape = torch.exp(0.5 * torch.randn(count, 3, generator=g))
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Inputs(
        f"generated {count:,}",
        torch.stack([x * z / focal, y * z / focal, z], -1),
        torch.randn(count, 4, generator=g),
        (pixels * z / focal)[:, None] * shape,
        torch.sigmoid(1.5 * torch.randn(count, generator=g)),
        torch.rand(count, 3, generator=g),
        torch.eye(4)[None],
        K[None],
        width,
        height,
    )
