"""The sum of all loss terms, as a dictionary of named, weighted scalars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from depth_priors import DepthPrior
from errors import UserError
from losses.depth import pearson_loss
from losses.image import l1_and_ssim
from rasterizer.contract import RenderOutput


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; 0 switches a term off."""

    lambda_dssim: float = 0.2
    """Share of 1 - SSIM in the image loss; the rest is L1 (3DGS)."""
    opacity_reg: float = 0.0
    """Weight of the mean opacity (3DGS-MCMC: 0.01); pushes unneeded Gaussians to vanish."""
    scale_reg: float = 0.0
    """Weight of the mean scale in world units (3DGS-MCMC: 0.01); pushes Gaussians to be small."""
    depth_weight: float = 0.0
    """Weight of 1 - Pearson correlation of rendered depth and the depth prior (FSGS: 0.05)."""

    def __post_init__(self) -> None:
        """Refuses weights with no meaning.

        Raises:
            UserError: names the field.
        """
        if not 0.0 <= self.lambda_dssim <= 1.0:
            raise UserError(f"lambda_dssim: expected a number from 0 to 1, got {self.lambda_dssim}")
        for name in ("opacity_reg", "scale_reg", "depth_weight"):
            if not getattr(self, name) >= 0.0:
                raise UserError(f"{name}: expected a weight of at least 0, got {getattr(self, name)}")


class Objective:
    """Turns one rendered view into the terms of the loss."""

    skipped: Counter[str]
    """How often a term was left out because it could not be computed, by its name."""

    def __init__(self, config: LossConfig) -> None:
        self.config = config
        self.skipped = Counter()

    def __call__(
        self,
        render: RenderOutput,
        target: Tensor,
        weight: Tensor | None,
        *,
        prior: DepthPrior | None = None,
        linear_scales: Callable[[], Tensor],
        linear_opacities: Callable[[], Tensor],
    ) -> dict[str, Tensor]:
        """The weighted terms of one view; their sum is what to minimise.

        Args:
            render: one camera's output (C = 1).
            target: true image [H, W, 3] in [0, 1].
            weight: pixel weights [H, W] (mask times confidence), or None.
            prior: the view's depth prior [H, W]; None = no depth term. `render` must hold depth then.
            linear_scales: gives [N, 3] in world units; asked only where a term needs it.
            linear_opacities: gives [N] in [0, 1]; likewise.

        Returns:
            Scalars by name: l1, dssim, depth_pearson, and the regularisers that are switched on.
        """
        share = self.config.lambda_dssim
        l1, similarity = l1_and_ssim(render.color.squeeze(0), target, weight)
        terms = {"l1": (1 - share) * l1, "dssim": share * (1 - similarity)}
        for name, factor, values in (
            ("opacity_reg", self.config.opacity_reg, linear_opacities),
            ("scale_reg", self.config.scale_reg, linear_scales),
        ):
            if factor > 0 and (tensor := values()).numel():
                terms[name] = factor * tensor.mean()
        if self.config.depth_weight > 0 and prior is not None:
            loss = pearson_loss(render.depth[0], render.alpha[0], prior)
            if loss is None:
                self.skipped["depth_pearson"] += 1
            else:
                terms["depth_pearson"] = self.config.depth_weight * loss
        return terms
