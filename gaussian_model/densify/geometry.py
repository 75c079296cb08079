"""Small geometry and draws that densifiers share, all of it elementwise or per row.

Nothing here calls a matrix library or a reduction over all rows, whose results depend on how the
work is divided.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaussian_model.rotation import rotate


def times_covariance(quats: Tensor, scales: Tensor, vectors: Tensor) -> Tensor:
    """Covariance R diag(scales^2) R^T times vectors; scales are linear. [N,4] [N,3] [N,3] -> [N,3]."""
    return rotate(quats, scales.square() * rotate(quats, vectors, inverse=True))


def normal_like(reference: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal draws on the device and in the type of `reference`.

    A CPU tensor is filled by `generator`. For another device one seed is drawn from it, and a
    generator there does the work: the stream is as reproducible, and millions of numbers need not
    be made on the CPU and carried over in every iteration.
    """
    if reference.device.type == "cpu":
        return torch.randn(shape, generator=generator, dtype=reference.dtype)
    seed = int(torch.randint(2**62, (), generator=generator))
    local = torch.Generator(reference.device).manual_seed(seed)
    return torch.randn(shape, generator=local, dtype=reference.dtype, device=reference.device)


def sample_rows(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows drawn with replacement, with probability in proportion to weights.

    By inversion of the cumulative sum in double on the CPU: no limit on the number of rows
    (torch.multinomial has one of 2^24), and the same draw on every device.

    Args:
        weights: [N], >= 0, N >= 1; uniform where all are zero.
        count: number of draws.
        generator: CPU generator.

    Returns:
        [count] int64 on the weights' device.
    """
    cumulative = weights.detach().cpu().double().cumsum(0)
    if not float(cumulative[-1]) > 0.0:
        cumulative = torch.arange(1, len(weights) + 1, dtype=torch.float64)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
    rows = torch.searchsorted(cumulative, drawn, right=True)
    return rows.clamp_max(len(weights) - 1).to(weights.device)
