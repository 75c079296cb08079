"""The sum of all loss terms, as a dictionary of named, weighted scalars."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from depth_priors import DepthPrior
from errors import UserError
from losses.binocular import binocular_loss
from losses.depth import FEWEST, DepthLoss, depth_loss
from losses.image import l1_and_ssim
from losses.pseudo import PseudoConfig, PseudoTarget
from rasterizer.contract import RenderOutput
from scene import Camera


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; 0 switches a term off."""

    lambda_dssim: float = 0.2
    """Share of 1 - SSIM in the image loss; the rest is L1 (3DGS)."""
    opacity_reg: float = 0.0
    """Weight of the mean opacity (3DGS-MCMC: 0.01); pushes unneeded Gaussians to vanish."""
    scale_reg: float = 0.0
    """Weight of the mean scale in world units (3DGS-MCMC: 0.01); pushes Gaussians to be small."""
    depth_loss: DepthLoss = "none"
    """Loss between rendered depth and the depth prior: `pearson`, `pearson_patch`, `adepth`, `rdepth`,
    `rgrad`, `g2`, `ssi`, `silog`, `ssi_silog_grad`, `inverse_l1`, or `none`: see docs/quality.md."""
    depth_weight: float = 0.05
    """Its weight (FSGS: 0.05)."""
    depth_weight_final: float = -1.0
    """Its weight at the end, -1 = the same (FSGS: 0.001)."""
    depth_final_from: int = field(default=0, metadata={"unit": "iterations"})
    """From this iteration on the weight is depth_weight_final; 0 = it goes there log-linearly all along (from
    or to 0: linearly)."""
    binocular: float = 0.0
    """Weight of the difference between the photograph and the picture from a camera beside it, moved back by
    rendered depth (Binocular3DGS, Han et al. 2024)."""
    binocular_from: int = field(default=0, metadata={"unit": "iterations"})
    """It begins after this iteration: rendered depth has to mean something first."""
    binocular_shift: float = 0.04
    """How far the middle of the scene moves at most, in widths of the picture."""
    depth_patch: int = 64
    """Side of the patches of pearson_patch, in pixels of the training images."""

    def __post_init__(self) -> None:
        """Refuses weights with no meaning.

        Raises:
            UserError: names the field.
        """
        if not 0.0 <= self.lambda_dssim <= 1.0:
            raise UserError(f"lambda_dssim: expected a number from 0 to 1, got {self.lambda_dssim}")
        if self.depth_patch < 16:
            raise UserError(f"depth_patch: expected at least 16 pixels, got {self.depth_patch}")
        if self.depth_weight_final != -1.0 and not self.depth_weight_final >= 0.0:
            raise UserError(
                f"depth_weight_final: expected a weight of at least 0, or -1, got {self.depth_weight_final}"
            )
        if self.depth_final_from < 0:
            raise UserError(f"depth_final_from: expected at least 0 iterations, got {self.depth_final_from}")
        if not 0.0 < self.binocular_shift <= 0.5:
            raise UserError(
                f"binocular_shift: expected a share above 0, up to 0.5, got {self.binocular_shift}"
            )
        if self.binocular_from < 0:
            raise UserError(f"binocular_from: expected at least 0 iterations, got {self.binocular_from}")
        for name in ("opacity_reg", "scale_reg", "depth_weight", "binocular"):
            if not getattr(self, name) >= 0.0:
                raise UserError(f"{name}: expected a weight of at least 0, got {getattr(self, name)}")

    @property
    def wants_depth(self) -> bool:
        """Whether a depth prior is of use."""
        return self.depth_loss != "none" and max(self.depth_weight, self.depth_weight_final) > 0.0

    def binocular_at(self, iteration: int) -> bool:
        """Whether an iteration (from 1) compares the view with the picture from beside."""
        return self.binocular > 0.0 and iteration > self.binocular_from

    def depth_weight_at(self, progress: float, iteration: int) -> float:
        """The weight of the depth loss.

        Args:
            progress: share of the training that is done, 0 to 1.
            iteration: from 1.
        """
        first, final = self.depth_weight, self.depth_weight_final
        if final == -1.0 or first == final:
            return first
        if self.depth_final_from > 0:
            return final if iteration >= self.depth_final_from else first
        if min(first, final) == 0.0:  # which has no logarithm
            return first + (final - first) * progress
        return math.exp(math.log(first) + (math.log(final) - math.log(first)) * progress)


class Objective:
    """Turns one rendered view into the terms of the loss."""

    skipped: Counter[str]
    """How often a term was left out because it could not be computed, by its name."""

    def __init__(self, config: LossConfig, iterations: int = 1, pseudo: PseudoConfig | None = None) -> None:
        """Weights follow their schedules over `iterations`; those of pseudo views are None = all 0."""
        self.config = config
        self.pseudo_config = pseudo or PseudoConfig()
        self.iterations = iterations
        self.skipped = Counter()

    def __call__(
        self,
        render: RenderOutput,
        target: Tensor,
        weight: Tensor | None,
        *,
        iteration: int = 1,
        prior: DepthPrior | None = None,
        linear_scales: Callable[[], Tensor],
        linear_opacities: Callable[[], Tensor],
    ) -> dict[str, Tensor]:
        """The weighted terms of one view; their sum is what to minimise.

        Args:
            render: one camera's output (C = 1).
            target: true image [H, W, 3] in [0, 1].
            weight: pixel weights [H, W] (mask times confidence), or None.
            iteration: from 1.
            prior: the view's depth prior [H, W], for which `render` must hold depth; None = it has none: a
                depth term that is on is counted as left out.
            linear_scales: gives [N, 3] in world units; asked only where a term needs it.
            linear_opacities: gives [N] in [0, 1]; likewise.

        Returns:
            Scalars by name: l1, dssim, depth_NAME, and the regularisers that are switched on.
        """
        share = self.config.lambda_dssim
        l1, similarity = l1_and_ssim(render.color.squeeze(0), target, weight)
        terms = {"l1": (1 - share) * l1, "dssim": share * (1 - similarity)}
        if weight is not None and not bool((weight > 0).any()):
            self.skipped.update(list(terms))
        for name, factor, values in (
            ("opacity_reg", self.config.opacity_reg, linear_opacities),
            ("scale_reg", self.config.scale_reg, linear_scales),
        ):
            if factor > 0 and (tensor := values()).numel():
                terms[name] = factor * tensor.mean()
        chosen = self.config.depth_loss
        amount = self.config.depth_weight_at(iteration / self.iterations, iteration)
        if chosen != "none" and amount > 0:
            loss = None
            if prior is not None:
                patch = self.config.depth_patch
                loss = depth_loss(chosen, render.depth[0], render.alpha[0], prior, patch=patch)
            if loss is None:
                self.skipped[f"depth_{chosen}"] += 1
            else:
                terms[f"depth_{chosen}"] = amount * loss
        return terms

    def beside(
        self,
        render: RenderOutput,
        seen: Tensor,
        camera: Camera,
        baseline: float,
        target: Tensor,
        weight: Tensor | None,
    ) -> dict[str, Tensor]:
        """The weighted term of a picture `seen` [H, W, 3] from beside the view; see `binocular_loss`."""
        loss = binocular_loss(seen, render.depth[0], render.alpha[0], camera, baseline, target, weight)
        if loss is None:
            self.skipped["binocular"] += 1
            return {}
        return {"binocular": self.config.binocular * loss}

    def pseudo_unknown(self, iteration: int) -> None:
        """Counts the terms of a pseudo view that is due in an iteration and of which nothing is known."""
        config = self.pseudo_config
        if config.share(iteration) > 0.0:
            named = {"pseudo_depth": config.depth, "warped": config.warped, "taught": config.taught}
            self.skipped.update(name for name, weight in named.items() if weight > 0.0)

    def pseudo(self, render: RenderOutput, target: PseudoTarget) -> dict[str, Tensor]:
        """The weighted terms of a pseudo view.

        Args:
            render: its output (C = 1), with depth where `target` has a prior.
            target: what it is held to.

        Returns:
            Scalars by name, of what is known there: pseudo_depth, warped_l1, warped_dssim, taught_l1,
            taught_dssim.
        """
        config = self.pseudo_config
        terms: dict[str, Tensor] = {}
        color = render.color.squeeze(0)
        for name, weight, view in (
            ("warped", config.warped, target.warped),
            ("taught", config.taught, target.taught),
        ):
            if view is None or weight == 0.0:
                continue
            known = view.weight()
            if known is not None and int((known > 0).sum()) < FEWEST:
                self.skipped[name] += 1
                continue
            l1, similarity = l1_and_ssim(color, view.image(), known)
            amount, share = target.share * weight, self.config.lambda_dssim
            terms |= {
                f"{name}_l1": amount * (1 - share) * l1,
                f"{name}_dssim": amount * share * (1 - similarity),
            }
        if config.depth > 0.0:
            prior = target.estimate(color) if target.estimate is not None else target.prior
            loss = None
            if prior is not None:
                patch = self.config.depth_patch
                loss = depth_loss(config.depth_loss, render.depth[0], render.alpha[0], prior, patch=patch)
            if loss is None:
                self.skipped["pseudo_depth"] += 1
            else:
                terms["pseudo_depth"] = target.share * config.depth * loss
        return terms
