"""What keeps Gaussians from fitting a few photographs only: dropout, opacity decay, limits on their shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from errors import UserError
from gaussian_model.gaussians import Gaussians
from gaussian_model.parameters import log_scales, logit_opacities


@dataclass(frozen=True)
class RegulariseConfig:
    """Each of these is off at its default."""

    dropout: float = 0.0
    """Share of the Gaussians that a training image is rendered without, at the end; it grows from 0 linearly.
    The others are made more opaque by as much (DropGaussian, Park et al. 2025: 0.2)."""
    sh_dropout: float = 0.0
    """Share of the training images that are rendered with a random lower SH degree, so that colour does not
    hide in view dependence (DropAnSH-GS, Fang et al. 2026: 0.2)."""
    opacity_decay: float = 1.0
    """Factor on every opacity after each iteration: what no photograph asks for fades (Binocular3DGS, Han et
    al. 2024: 0.995)."""
    opacity_decay_pass: float = 1.0
    """The same for a pass over the training views, shared out among its iterations: however many views there
    are, a Gaussian fades as much between two sights of it (0.985 with three views: 0.995 each)."""
    max_scale: float = 0.0
    """Longest axis that a Gaussian may have, in scene extents; 0 = any."""
    max_ratio: float = 0.0
    """How many times longer than its middle axis a Gaussian's longest may be, against needles (PhysGaussian,
    Xie et al. 2023); 0 = any."""

    def __post_init__(self) -> None:
        """Refuse values with no meaning.

        Raises:
            UserError: names the field.
        """
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout: expected a share from 0 to below 1, got {self.dropout}")
        if not 0.0 <= self.sh_dropout <= 1.0:
            raise UserError(f"sh_dropout: expected a share from 0 to 1, got {self.sh_dropout}")
        for name in ("opacity_decay", "opacity_decay_pass"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise UserError(f"{name}: expected a factor above 0, up to 1, got {getattr(self, name)}")
        if not self.max_scale >= 0.0:
            raise UserError(f"max_scale: expected at least 0, got {self.max_scale}")
        if self.max_ratio != 0.0 and not self.max_ratio >= 1.0:
            raise UserError(f"max_ratio: expected 0 or at least 1, got {self.max_ratio}")


def dropout_factors(
    config: RegulariseConfig, count: int, progress: float, generator: torch.Generator
) -> Tensor | None:
    """What to multiply opacities [N] by in one training image: 0 or 1 / (1 - rate); None without dropout.

    Args:
        config: `dropout` is the rate at the end.
        count: N.
        progress: share of the training that is done, 0 to 1.
        generator: CPU generator; untouched where nothing is dropped.
    """
    rate = config.dropout * progress
    if rate <= 0.0:
        return None
    stays = torch.rand(count, generator=generator) >= rate
    return stays.to(torch.float32) / (1.0 - rate)


def dropped_sh_degree(config: RegulariseConfig, degree: int, generator: torch.Generator) -> int:
    """The SH degree to render one training image with: `degree`, or now and then a random lower one.

    Args:
        config: `sh_dropout` is how often.
        degree: highest active one.
        generator: CPU generator; untouched where nothing is ever dropped.
    """
    if config.sh_dropout <= 0.0 or degree == 0:
        return degree
    drawn = torch.rand(2, generator=generator)
    return int(drawn[1] * degree) if float(drawn[0]) < config.sh_dropout else degree


@torch.no_grad()
def hold_in_shape(gaussians: Gaussians, config: RegulariseConfig, extent: float, passes: float) -> None:
    """Opacity decay and the limits on scales, in place; after the optimizer's step.

    Args:
        gaussians: N Gaussians.
        config: what is on.
        extent: scene extent, world units.
        passes: over the training views, that the step was: its views by all views.
    """
    fades = config.opacity_decay * config.opacity_decay_pass**passes
    if fades < 1.0:
        stored = gaussians.params["opacities"]
        stored.copy_(logit_opacities(gaussians.linear_opacities() * fades))
    scales = gaussians.params["scales"]
    if config.max_scale > 0.0:
        scales.clamp_(max=float(log_scales(torch.tensor(config.max_scale * extent))))
    if config.max_ratio > 0.0:
        a, b, c = scales.unbind(-1)
        middle = torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))
        scales.copy_(torch.minimum(scales, middle.unsqueeze(-1) + math.log(config.max_ratio)))
