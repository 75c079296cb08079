"""Where the tensors of a run live, decided by the rasterizer's backend alone."""

from __future__ import annotations

import torch


def device_for(backend: str) -> torch.device:
    """Returns the device on which a resolved backend ("gsplat", "cpu", "reference") works.

    Raises:
        ValueError: for "auto" or an unknown name: resolve it first with `rasterizer.resolve_backend`.
    """
    if backend == "gsplat":
        return torch.device("cuda")
    if backend in ("cpu", "reference"):
        return torch.device("cpu")
    raise ValueError(f"backend: expected a resolved one (gsplat, cpu or reference), got {backend!r}")
