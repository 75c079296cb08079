"""Which of the Gaussians are exported, and how much of their colour."""

from __future__ import annotations

import numpy as np
import torch

from errors import UserError
from exporting.splats import Splats
from gaussian_model import Gaussians

_FARTHEST = 1e18  # world units; the square of a larger distance is infinite in every renderer's float32


def select(
    gaussians: Gaussians, *, min_opacity: float = 0.0, max_gaussians: int = 0, sh_degree: int | None = None
) -> Gaussians:
    """The Gaussians worth sharing, in their order.

    Rows with a value that is not finite, or at a distance that renderers cannot square, are left out in any
    case.

    Args:
        gaussians: on any device.
        min_opacity: fainter ones are left out.
        max_gaussians: at most so many, those with the largest opacity times area; 0 is all.
        sh_degree: colours of at most this degree; None keeps theirs.

    Raises:
        UserError: none are left.
    """
    if not len(gaussians):
        raise UserError("expected Gaussians to export, got none: choose another run, iteration or .ply")
    state = gaussians.state_dict()
    keep = torch.ones(len(gaussians), dtype=torch.bool, device=gaussians.device)
    for value in state.values():
        if value[0].numel():
            keep &= value.isfinite().flatten(1).all(dim=1) if value.dim() > 1 else value.isfinite()
    keep &= (state["means"].abs() < _FARTHEST).all(dim=1)
    if not keep.any():
        raise UserError("all Gaussians hold NaN or infinite values: export an earlier iteration")
    keep &= gaussians.linear_opacities().detach() >= min_opacity
    if not keep.any():
        most = float(gaussians.linear_opacities().detach().nan_to_num(0.0).max())
        raise UserError(
            f"--min_opacity {min_opacity:g}: no Gaussian is as opaque (the most opaque: {most:.3f}): lower it"
        )
    chosen = keep.nonzero()[:, 0]
    if 0 < max_gaussians < len(chosen):
        importance = Splats.of(_rows(state, chosen, None)).log_importance()
        best = np.argsort(-importance, kind="stable")[:max_gaussians]
        chosen = chosen[torch.from_numpy(np.sort(best)).to(chosen.device)]
    return _rows(state, chosen, sh_degree)


def _rows(state: dict[str, torch.Tensor], chosen: torch.Tensor, sh_degree: int | None) -> Gaussians:
    part = {key: value[chosen] for key, value in state.items()}
    if sh_degree is not None:
        part["shN"] = part["shN"][:, : (sh_degree + 1) ** 2 - 1]
    return Gaussians.from_tensors(part)
