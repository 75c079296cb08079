"""3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al., NeurIPS 2024).

Gaussians are samples of a distribution: transparent ones are relocated to where opaque ones are, in
a way that changes the picture as little as possible, their number grows to a given cap, and the
positions of transparent ones get noise, so that they explore.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gaussian_model.densify.config import DensifyConfig
from gaussian_model.densify.geometry import normal_like, sample_rows, times_covariance
from gaussian_model.densify.protocol import DensifyReport, check_strategy
from gaussian_model.edit import RowEdit, apply_edit
from gaussian_model.gaussians import Gaussians
from gaussian_model.parameters import log_scales, logit_opacities, sigmoid

log = logging.getLogger(__name__)

MAX_COPIES = 51
"""Copies that a Gaussian is divided into at most (as in the published implementation); more draws of
one Gaussian are treated as 51."""

GATE_STEEPNESS = 100.0
"""Steepness k of the noise's fade-out with opacity (the paper's Eq. 8)."""


class McmcDensifier:
    """Relocate, grow and perturb. Keeps no statistics: opacity alone says what is needed."""

    wants_absgrad = False
    collects = False

    def __init__(self, config: DensifyConfig, generator: torch.Generator) -> None:
        """Draw everything from `generator` (CPU)."""
        self.config = config
        self.generator = generator
        self.statistics: dict[str, Tensor] = {}

    def collect(self, info: Mapping[str, Any]) -> None:
        """Nothing is needed."""

    @torch.no_grad()
    def refine(
        self, iteration: int, gaussians: Gaussians, optimizer: torch.optim.Optimizer
    ) -> DensifyReport | None:
        """Relocate and grow where due, and add the noise of every iteration; see `Densifier.refine`.

        The noise is scaled by the rate that the optimizer's group `means` has now.
        """
        config = self.config
        report = None
        if config.start < iteration < config.stop and iteration % config.every == 0 and len(gaussians) > 0:
            relocated = self._relocate(gaussians, optimizer)
            added = self._grow(gaussians, optimizer)
            report = DensifyReport(total=len(gaussians), relocated=relocated, added=added)
        self._add_noise(gaussians, optimizer)
        return report

    def _relocate(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer) -> int:
        """Move dead Gaussians onto live ones drawn by opacity; returns how many."""
        opacities = gaussians.linear_opacities()
        is_dead = opacities <= self.config.mcmc.min_opacity
        dead, live = is_dead.nonzero().squeeze(-1), (~is_dead).nonzero().squeeze(-1)
        if len(dead) == 0:
            return 0
        if len(live) == 0:
            log.warning("all %d Gaussians are transparent; none to relocate them to", len(dead))
            return 0
        drawn = live[sample_rows(opacities[live], len(dead), self.generator)]
        source = torch.arange(len(gaussians), device=gaussians.device)
        source[dead] = drawn
        self._divide(gaussians, optimizer, source, drawn)
        return len(dead)

    def _grow(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer) -> int:
        """Add Gaussians on top of ones drawn by opacity; returns how many."""
        count = len(gaussians)
        wanted = max(int((1.0 + self.config.mcmc.grow) * count), count + (self.config.mcmc.grow > 0.0))
        added = min(self.config.mcmc.cap_max, wanted) - count
        if added <= 0:
            return 0
        drawn = sample_rows(gaussians.linear_opacities(), added, self.generator)
        source = torch.cat([torch.arange(count, device=gaussians.device), drawn])
        self._divide(gaussians, optimizer, source, drawn)
        return added

    def _divide(
        self, gaussians: Gaussians, optimizer: torch.optim.Optimizer, source: Tensor, drawn: Tensor
    ) -> None:
        """Make new rows by `source`, dividing each drawn Gaussian among itself and its copies."""
        copies = torch.bincount(drawn, minlength=len(gaussians)) + 1  # integer: exact in any order
        fresh = (copies > 1)[source]
        rows = source[fresh]
        opacities, scales = divided(
            gaussians.linear_opacities()[rows], gaussians.linear_scales()[rows], copies[rows]
        )
        values = {
            "opacities": logit_opacities(opacities.clamp_min(self.config.mcmc.min_opacity)),
            "scales": log_scales(scales),
        }
        apply_edit(gaussians, optimizer, self.statistics, RowEdit(source, fresh, values))

    def _add_noise(self, gaussians: Gaussians, optimizer: torch.optim.Optimizer) -> None:
        """Langevin noise on the positions: rate * gate(opacity) * covariance * normal."""
        rate = next(group["lr"] for group in optimizer.param_groups if group["name"] == "means")
        strength = float(rate) * self.config.mcmc.noise_lr
        if strength == 0.0 or len(gaussians) == 0:
            return
        means = gaussians.params["means"]
        gate = sigmoid(GATE_STEEPNESS * (self.config.mcmc.min_opacity - gaussians.linear_opacities()))
        normal = normal_like(means, tuple(means.shape), self.generator)
        noise = normal * (gate * strength).unsqueeze(-1)
        means.add_(times_covariance(gaussians.params["quats"], gaussians.linear_scales(), noise))

    def state_dict(self) -> dict[str, Any]:
        """Only the strategy's name."""
        return {"strategy": "mcmc"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Densifier.load_state_dict`."""
        check_strategy(state, "mcmc")


def divided(opacities: Tensor, scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and scales that make n co-located copies look like one Gaussian (Eq. 9).

    The opacity, 1 - (1 - o)^(1/n), keeps the alpha at the centre; the factor on the scales keeps the
    integral of the alpha along a line through it. The paper's double sum over binomials
    collapses, since sum_{i=k..n} C(i-1, k-1) = C(n, k), to
    sum_{k=1..n} (-1)^(k-1) C(n, k) q^k / sqrt(k) with q the new opacity. Its terms alternate and reach
    10^4 times the sum, so it is done in double.

    Args:
        opacities: linear, [M] in (0, 1).
        scales: linear, [M,3].
        copies: n, [M] integer >= 1; values above 51 count as 51.

    Returns:
        New linear opacities [M] and scales [M,3] in the arguments' type; for n = 1 the old ones to
        rounding.
    """
    n = copies.clamp(1, MAX_COPIES)
    # An opacity that rounds to 1 would make every copy opaque.
    old = opacities.double().clamp_max(1.0 - torch.finfo(opacities.dtype).eps)
    new = -torch.expm1(torch.log1p(-old) / n)
    table = _signed_binomials().to(opacities.device)
    total = torch.zeros_like(new)
    power = torch.ones_like(new)
    for k in range(1, MAX_COPIES + 1):  # in one order, elementwise; the table is 0 for k > n
        power = power * new
        total += table[n, k] * power
    factor = torch.where(total > 0.0, old / total, 1.0)
    return new.to(opacities.dtype), (scales.double() * factor.unsqueeze(-1)).to(scales.dtype)


def _signed_binomials() -> Tensor:
    """[52, 52] f64: (-1)^(k-1) C(n, k) / sqrt(k) at [n, k], 0 for k = 0 and k > n."""
    size = MAX_COPIES + 1
    rows = [
        [0.0] + [(-1) ** (k - 1) * math.comb(n, k) / math.sqrt(k) for k in range(1, size)]
        for n in range(size)
    ]
    return torch.tensor(rows, dtype=torch.float64)
