"""Adam over the six parameter tensors, and the schedules of what it may move.

State and param groups are laid out as torch.optim.Adam's, so that checkpoints and foreign tools
(gsplat's strategies) read them. On the CPU one compiled kernel updates each tensor, with the same
bits for any number of threads; on CUDA it is torch's fused kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from errors import UserError
from gaussian_model.gaussians import Gaussians
from gaussian_model.parameters import KEYS

BETAS = (0.9, 0.999)
"""Adam's decay rates of its two averages (3DGS)."""

EPSILON = 1e-15
"""Adam's epsilon (3DGS): the gradients of a mean-reduced image loss are far below the usual 1e-8."""


@dataclass(frozen=True)
class OptimConfig:
    """Learning rates, all per step; the rate of `means` is multiplied by the scene extent."""

    means_lr: float = 1.6e-4
    """Initial rate of the positions, in scene extents."""
    means_lr_final: float = 1.6e-6
    """Rate of the positions at the last iteration; in between it falls log-linearly."""
    sh0_lr: float = 2.5e-3
    """Rate of the base colour."""
    shN_lr: float = 2.5e-3 / 20
    """Rate of the view-dependent colour."""
    opacities_lr: float = 0.05
    """Rate of the logit-opacities."""
    opacities_lr_final: float | None = None
    """Rate of the logit-opacities at the last iteration, log-linearly from the first; none = as `decay` has
    it. Where opacities fade (--regularise.opacity_decay), a rate that falls cannot hold them at the end."""
    scales_lr: float = 5e-3
    """Rate of the log-scales."""
    quats_lr: float = 1e-3
    """Rate of the rotations."""
    decay: float = 1.0
    """Factor that the rates of all but the positions fall by over the training, log-linearly."""
    batch_rule: Literal["none", "sqrt"] = "none"
    """What several views a step (--batch_size) do to the rates. sqrt: they grow with the root of the number,
    and Adam's averages forget as much per view as ever (Zhao et al., On Scaling Up 3D Gaussian Splatting
    Training, 2024)."""
    sh_degree_interval: int = field(default=1000, metadata={"unit": "iterations"})
    """Iterations after which one more SH degree becomes active; 0 = all from the start."""

    def __post_init__(self) -> None:
        """Refuse rates that cannot be.

        Raises:
            UserError: names the field.
        """
        for name in ("means_lr", "means_lr_final"):
            if not getattr(self, name) > 0.0:  # log-linear between them
                raise UserError(f"{name}: expected a positive rate, got {getattr(self, name)}")
        for name in ("sh0_lr", "shN_lr", "opacities_lr", "scales_lr", "quats_lr"):
            if not getattr(self, name) >= 0.0:
                raise UserError(f"{name}: expected a rate of at least 0, got {getattr(self, name)}")
        if (final := self.opacities_lr_final) is not None and not (final > 0.0 and self.opacities_lr > 0.0):
            raise UserError(
                "opacities_lr_final: expected a positive rate after a positive opacities_lr, got "
                f"{final} after {self.opacities_lr}"
            )
        if not 0.0 < self.decay <= 1.0:
            raise UserError(f"decay: expected a factor above 0, up to 1, got {self.decay}")
        if self.sh_degree_interval < 0:
            raise UserError(f"sh_degree_interval: expected at least 0, got {self.sh_degree_interval}")


class GaussianAdam(torch.optim.Adam):
    """Adam with one parameter group per key of `KEYS`, named by `group["name"]`.

    A parameter without gradient is skipped: neither its value, nor its moments, nor its step count
    change. Row edits put new tensors into the groups, see `edit.apply_edit`.
    """

    def __init__(self, gaussians: Gaussians, config: OptimConfig, extent: float) -> None:
        """Own the parameters of `gaussians`, with the rates of iteration 0."""
        groups = [{"params": [gaussians.params[key]], "name": key, "lr": 0.0} for key in KEYS]
        fused = True if gaussians.device.type == "cuda" else None
        super().__init__(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=fused)
        set_learning_rates(self, config, extent, 0, 1)

    # torch annotates step as a property-like attribute of several overloads; ours is the common one.
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One Adam update of every parameter that has a gradient.

        Args:
            closure: as in torch; evaluated with gradients first, its value returned.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in parameters):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_on_cpu(parameter, group)
        return loss

    def _step_on_cpu(self, parameter: Tensor, group: dict) -> None:
        """Update one f32 tensor in place with the compiled kernel."""
        import native  # compiles on first use, so never at import

        assert parameter.grad is not None, "the caller skips parameters without gradient"
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1.0
        if parameter.numel() == 0:
            return
        beta1, beta2 = group["betas"]
        native.adam_step(
            parameter.detach(),
            parameter.grad.contiguous(),
            state["exp_avg"],
            state["exp_avg_sq"],
            float(group["lr"]),
            beta1,
            beta2,
            group["eps"],
            int(state["step"].item()),
        )


def set_learning_rates(
    optimizer: GaussianAdam,
    config: OptimConfig,
    extent: float,
    iteration: int,
    iterations: int,
    batch_size: int = 1,
) -> None:
    """Write the learning rates of one iteration into the optimizer's groups, and Adam's two betas.

    Args:
        optimizer: its groups are found by name.
        config: the rates.
        extent: scene extent, world units; multiplies the rate of `means`.
        iteration: 0 to iterations.
        iterations: length of the training.
        batch_size: views per step, for `config.batch_rule`.
    """
    views = batch_size if config.batch_rule == "sqrt" else 1
    for group in optimizer.param_groups:
        name = group["name"]
        if name == "means":
            rate = means_learning_rate(config, extent, iteration, iterations)
        else:
            first = getattr(config, f"{name}_lr")
            final = config.opacities_lr_final if name == "opacities" else None
            fall = config.decay if final is None else final / first
            rate = first * fall ** (iteration / max(iterations, 1))
        group["lr"] = rate * math.sqrt(views)
        group["betas"] = (BETAS[0] ** views, BETAS[1] ** views)


def means_learning_rate(config: OptimConfig, extent: float, iteration: int, iterations: int) -> float:
    """Log-linear rate of the positions, world units per step: first at iteration 0, final at the last."""
    progress = min(max(iteration / max(iterations, 1), 0.0), 1.0)
    first, final = math.log(config.means_lr), math.log(config.means_lr_final)
    return math.exp(first + (final - first) * progress) * extent


def active_sh_degree(config: OptimConfig, iteration: int, max_degree: int) -> int:
    """SH degree to render iteration `iteration` with: one more every interval, up to `max_degree`."""
    if config.sh_degree_interval == 0:
        return max_degree
    return min(iteration // config.sh_degree_interval, max_degree)
