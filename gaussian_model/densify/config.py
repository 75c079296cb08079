"""The options of densification, for every strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from errors import UserError


@dataclass(frozen=True)
class McmcConfig:
    """Options of the MCMC strategy only (Kheradmand et al. 2024)."""

    cap_max: int = 1_000_000
    """Number of Gaussians that growth ends at."""
    grow: float = 0.05
    """Growth per refinement, as a fraction of the present number."""
    min_opacity: float = 0.005
    """Gaussians at or below this opacity are dead and get relocated; also where the noise fades out."""
    noise_lr: float = 5e5
    """Strength of the noise on the positions, in learning rates of the positions."""


@dataclass(frozen=True)
class DensifyConfig:
    """When and how Gaussians are added and removed. `start`, `stop`, `every` serve both strategies."""

    strategy: Literal["default", "mcmc", "none"] = "default"
    """`default` = 3DGS adaptive density control, `mcmc` = relocation and noise, `none` = fixed number."""
    start: int = field(default=500, metadata={"unit": "iterations"})
    """Refinements come after this iteration."""
    stop: int = field(default=15_000, metadata={"unit": "iterations"})
    """From this iteration on nothing is refined or reset."""
    every: int = field(default=100, metadata={"unit": "iterations", "least": 50})
    """Iterations between refinements. A shorter training brings them closer, but not below 50: the mean
    gradient needs the views of that many iterations."""
    grad_threshold: float = 2e-4
    """Mean screen-space position gradient (normalised device units) above which a Gaussian grows."""
    absgrad: bool = False
    """Judge by absolute gradients (AbsGS), which do not cancel within a Gaussian."""
    absgrad_threshold: float = 8e-4
    """Takes the place of `grad_threshold` where `absgrad` is on."""
    clone_scale: float = 0.01
    """Largest scale, in scene extents, up to which a growing Gaussian is cloned instead of split."""
    revised_opacity: bool = False
    """Give the two parts of a split the opacity that composites to the original (Rota Bulo et al. 2024)."""
    prune_opacity: float = 0.005
    """Gaussians below this opacity are removed."""
    prune_scale: float = 0.1
    """Gaussians larger than this, in scene extents, are removed (after the first opacity reset); 0 = off, as
    it should be for a few cameras side by side: what they see is far away in units of their spread."""
    prune_screen_size: float = 0.0
    """Gaussians seen larger than this, in image sizes, are removed (after the first reset); 0 = off."""
    reset_every: int = field(default=3000, metadata={"unit": "iterations", "least": 1000})
    """Iterations between opacity resets; 0 = never. A shorter training brings them closer, but not below
    1000: recovering from a reset takes several hundred iterations however long the training is."""
    reset_opacity: float = 0.01
    """Opacities are cut to at most this in a reset."""
    pause_after_reset: int = field(default=0, metadata={"unit": "iterations"})
    """Iterations after a reset without refinement; about the number of training views is sensible."""
    max_gaussians: int = 0
    """Growth of `strategy: default` stops at this number, the highest gradients first; 0 = no limit. Initial
    ones stay. (`strategy: mcmc` has `mcmc.cap_max`.)"""
    fill_until: int = field(default=0, metadata={"unit": "iterations"})
    """The limit rises from 0 to `max_gaussians` until this iteration, in proportion, so that the first
    iterations, which settle coarse shapes, stay cheap; 0 = the whole limit from the start."""
    unpool: float = 0.0
    """Gaussians whose 3 nearest neighbours are farther than this on average, in scene extents, get new ones
    half way to them (FSGS's proximity-guided unpooling, Zhu et al. 2023); 0 = off. With `default` only."""
    unpool_until: int = field(default=0, metadata={"unit": "iterations"})
    """Last iteration at which that is done; 0 = as long as there are refinements."""
    prune_near: float = 0.0
    """Gaussians nearer to a training camera than this share of the depth of the nearest scene point that it
    sees are removed: floaters (after FreeNeRF, Yang et al. 2023); 0 = off. For `strategy: default`."""
    mcmc: McmcConfig = field(default_factory=McmcConfig)
    """Options of `strategy: mcmc`."""

    def __post_init__(self) -> None:
        """Refuse values with no meaning.

        Raises:
            UserError: names the field.
        """
        if self.every < 1:
            raise UserError(f"every: expected at least 1 iteration, got {self.every}")
        for name in (
            "start",
            "stop",
            "reset_every",
            "pause_after_reset",
            "max_gaussians",
            "fill_until",
            "unpool_until",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not self.prune_scale >= 0.0:
            raise UserError(f"prune_scale: expected a size of at least 0, got {self.prune_scale}")
        if not self.unpool >= 0.0:
            raise UserError(f"unpool: expected a distance of at least 0, got {self.unpool}")
        if not 0.0 <= self.prune_near < 1.0:
            raise UserError(f"prune_near: expected a share from 0 to below 1, got {self.prune_near}")
        for name in ("prune_opacity", "reset_opacity"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise UserError(f"{name}: expected a number between 0 and 1, got {getattr(self, name)}")
        if self.strategy == "default" and self.reset_every and self.reset_opacity < self.prune_opacity:
            raise UserError(
                f"reset_opacity: expected at least prune_opacity {self.prune_opacity}, got "
                f"{self.reset_opacity}; every Gaussian would be pruned after a reset"
            )
        if not 0.0 < self.mcmc.min_opacity < 1.0:
            raise UserError(f"mcmc.min_opacity: expected between 0 and 1, got {self.mcmc.min_opacity}")
        if self.mcmc.grow < 0.0 or self.mcmc.noise_lr < 0.0 or self.mcmc.cap_max < 1:
            raise UserError("mcmc: expected grow >= 0, noise_lr >= 0 and cap_max >= 1")

    def limit(self, iteration: int) -> int | None:
        """Number of Gaussians that growth after `iteration` may reach; None = any."""
        if self.max_gaussians == 0:
            return None
        return int(self.max_gaussians * min(1.0, iteration / max(self.fill_until, 1)))

    def unpools_at(self, iteration: int) -> bool:
        """Whether a refinement after `iteration` also fills gaps between Gaussians."""
        return self.unpool > 0.0 and (self.unpool_until == 0 or iteration <= self.unpool_until)

    @property
    def threshold(self) -> float:
        """The gradient threshold in force, for the kind of gradient in use."""
        return self.absgrad_threshold if self.absgrad else self.grad_threshold
