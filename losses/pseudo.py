"""Pseudo views: what training is held to at places that nobody photographed.

Three things can be asked of a rendering from there, each with its weight:

    depth   its depth agrees with what a depth network sees in it (FSGS, Zhu et al. 2023; source document
            003), or with the confident surfaces of the photographs
    warped  it looks like the photographs, moved there through their depth (MVPGS, Xu et al. 2024)
    taught  it looks like the mean picture of models that were trained alike with other seeds; where they
            differ, each has made something up (deep ensembles, Lakshminarayanan et al. 2017, distilled; for
            Gaussians see CoR-GS, Zhang et al. 2024)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from depth_priors import DepthPrior, PseudoKnowledge, ResizedPriors
from errors import UserError
from losses.depth import DepthLoss
from scene import Camera, ImagePyramid, PseudoKind, PyramidConfig, View


@dataclass(frozen=True)
class PseudoConfig:
    """What is asked of pseudo views; all weights 0 = there are none."""

    cameras: PseudoKind = "auto"
    """Where they stand: in the `box` of the training cameras, on their `orbit`, or `interpolated` between
    two. auto: by how the training cameras stand."""
    count: int = 60
    """How many there are, drawn once."""
    reach: float = 1.0
    """How far they go beyond the training cameras, from 1: the size of their box in boxes of the cameras; on
    an orbit distance and height change by up to half of reach - 1; between two, so many times the noise."""
    start: int = field(default=0, metadata={"unit": "iterations"})
    """They count after this iteration."""
    until: int = field(default=0, metadata={"unit": "iterations"})
    """They count before this iteration; 0 = to the end."""
    every: int = 1
    """Iterations between two that render a pseudo view."""
    ramp: int = field(default=0, metadata={"unit": "iterations"})
    """Iterations over which the weights rise from 0 after `start`."""
    depth: float = 0.0
    """Weight of the depth term (FSGS: 0.5; 0.03 for captures all around)."""
    depth_loss: DepthLoss = "pearson"
    """What it compares by."""
    depth_from: Literal["auto", "network", "mvs"] = "auto"
    """What it compares with: the depth `network` that --depth_prior names, run on each rendering, or the
    confident surfaces of `mvs` (the built-in stereo). auto: the network where there is one."""
    depth_gradient: bool = True
    """Gradients also flow through the network into the rendering that it looks at (FSGS)."""
    warped: float = 0.0
    """Weight of L1 and SSIM against the photographs, moved there."""
    taught: float = 0.0
    """Weight of L1 and SSIM against the teachers' mean picture."""
    teachers: int = 3
    """How many models are trained first for that."""
    teacher_iterations: int = field(default=0, metadata={"unit": "iterations"})
    """Length of their training, whose schedules are this one's, scaled; 0 = as long as this one."""

    def __post_init__(self) -> None:
        """Refuses values with no meaning.

        Raises:
            UserError: names the field.
        """
        for name in ("start", "until", "ramp", "teacher_iterations"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}: expected at least 0 iterations, got {getattr(self, name)}")
        for name in ("count", "every", "teachers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 1.0 <= self.reach <= 3.0:
            raise UserError(f"reach: expected a factor from 1 to 3, got {self.reach}")
        for name in ("depth", "warped", "taught"):
            if not getattr(self, name) >= 0.0:
                raise UserError(f"{name}: expected a weight of at least 0, got {getattr(self, name)}")
        if self.depth_loss == "none":
            raise UserError("depth_loss: expected a loss, got none: 0 for pseudo.depth leaves it out")

    @property
    def wanted(self) -> bool:
        """Whether any term is on."""
        return max(self.depth, self.warped, self.taught) > 0.0

    def counts_within(self, iterations: int) -> bool:
        """Whether a pseudo view counts in any iteration of a run; a short run's schedule may leave none."""
        last = min(iterations, self.until - 1) if self.until else iterations
        return self.wanted and last - last % self.every > self.start

    def teachers_of(self, iterations: int) -> int:
        """How many teachers a run of so many iterations has use for."""
        return self.teachers if self.taught > 0.0 and self.counts_within(iterations) else 0

    def share(self, iteration: int) -> float:
        """Factor on the weights in an iteration (from 1): 0 where no pseudo view counts."""
        if not self.wanted or iteration <= self.start or iteration % self.every != 0:
            return 0.0
        if self.until and iteration >= self.until:
            return 0.0
        return 1.0 if self.ramp == 0 else min(1.0, (iteration - self.start) / self.ramp)


@dataclass(frozen=True, eq=False)
class PseudoTarget:
    """What one rendering from a new place is held to."""

    camera: Camera
    share: float
    """Factor on the weights, in (0, 1]."""
    warped: View | None
    """Its mask says what is known."""
    taught: View | None
    prior: DepthPrior | None
    estimate: Callable[[Tensor], DepthPrior | None] | None
    """Makes the prior from the rendered picture [H, W, 3], where it is a network's."""


class PseudoTargets:
    """All pseudo views of a run, at the image size of each iteration.

    Args:
        config: what is asked of them.
        known: their cameras, and what photographs and networks say of them.
        taught: the teachers' mean pictures, one for each camera; or none.
        pyramid: the training images' sizes.
        device: where they are kept.
    """

    def __init__(
        self,
        config: PseudoConfig,
        known: PseudoKnowledge,
        taught: Sequence[View],
        pyramid: PyramidConfig,
        device: torch.device,
    ) -> None:
        self._config, self._pyramid = config, pyramid
        self._cameras, self._estimate = [camera.to(device) for camera in known.cameras], known.estimate
        self._warped = ImagePyramid([view.to(device) for view in known.warped], pyramid)
        self._taught = ImagePyramid([view.to(device) for view in taught], pyramid)
        self._priors = ResizedPriors([prior.to(device) for prior in known.priors])
        self._known = bool(known.cameras) and bool(
            known.warped or taught or known.priors or known.estimate is not None
        )

    def draw(self, iteration: int, generator: torch.Generator) -> PseudoTarget | None:
        """A random one for an iteration (from 1); None where none is due.

        Args:
            iteration: decides the image size and the weight.
            generator: CPU generator; untouched where none is due.
        """
        share = self._config.share(iteration)
        if share == 0.0 or not self._known:
            return None
        i = int(torch.randint(len(self._cameras), (), generator=generator))
        camera = self._cameras[i]
        size = self._pyramid.size(camera.width, camera.height, iteration)
        return PseudoTarget(
            camera if size == (camera.width, camera.height) else camera.resized(*size),
            share,
            self._warped.view(i, iteration) if self._warped.views else None,
            self._taught.view(i, iteration) if self._taught.views else None,
            self._priors.get(i, *size) if self._priors else None,
            self._estimate,
        )
