"""What every densifier offers to the training loop, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gaussian_model.gaussians import Gaussians


@dataclass(frozen=True)
class DensifyReport:
    """What one refinement did."""

    total: int
    """Gaussians afterwards."""
    cloned: int = 0
    split: int = 0
    pruned: int = 0
    relocated: int = 0
    added: int = 0
    reset: bool = False
    """Whether the opacities were reset."""


class Densifier(Protocol):
    """Decides when and how Gaussians are added, moved and removed."""

    wants_absgrad: bool
    """Whether to render with `absgrad=True`."""

    @property
    def collects(self) -> bool:
        """Whether `collect` still makes use of what it is given."""

    statistics: dict[str, Tensor]
    """Per-Gaussian sums [N] since the last refinement; empty where none are kept."""

    def collect(self, info: Mapping[str, Any]) -> None:
        """Take what is needed from the rasterizer's meta; after backward, in every iteration.

        The caller has called `info["means2d"].retain_grad()` before backward.
        """

    def refine(
        self, iteration: int, gaussians: Gaussians, optimizer: torch.optim.Optimizer
    ) -> DensifyReport | None:
        """Do what is due after the optimizer's step of `iteration` (from 1); None where nothing is."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives from which `load_state_dict` goes on exactly (the generator apart)."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a saved state.

        Raises:
            ValueError: it was saved by another strategy.
        """


class NoDensifier:
    """A fixed number of Gaussians."""

    wants_absgrad = False
    collects = False

    def __init__(self) -> None:
        self.statistics: dict[str, Tensor] = {}

    def collect(self, info: Mapping[str, Any]) -> None:
        """Nothing is needed."""

    def refine(
        self, iteration: int, gaussians: Gaussians, optimizer: torch.optim.Optimizer
    ) -> DensifyReport | None:
        """Nothing is ever due."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Only the strategy's name."""
        return {"strategy": "none"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Densifier.load_state_dict`."""
        check_strategy(state, "none")


def check_strategy(state: Mapping[str, Any], strategy: str) -> None:
    """Raise ValueError where a state was saved by another strategy."""
    if state.get("strategy") != strategy:
        raise ValueError(f"densifier state: expected strategy {strategy!r}, got {state.get('strategy')!r}")
