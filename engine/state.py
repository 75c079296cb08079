"""Everything that one training iteration changes, in one object; what a checkpoint stores and restores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from gaussian_model import GaussianAdam, Gaussians
    from gaussian_model.densify import Densifier
    from scene import ViewSampler


@dataclass
class TrainingState:
    """The mutable state of a run. The loop owns it; the checkpoint room copies it out and in.

    Attributes:
        gaussians: the parameters, rows [N, ...].
        optimizer: one parameter group per parameter key, `group["name"]` being the key.
        densifier: adds and removes rows; keeps statistics over N.
        sampler: draws the training view of each iteration.
        generator: CPU generator behind every random draw of the loop (shared with sampler and densifier).
        local: CPU generator behind the draws for single Gaussians; `generator`, but where processes have
            Gaussians of their own (--sharded).
        counts: Gaussians of every process then, by rank; empty = these are all.
        iteration: iterations completed; the first is number 1.
        scene: fingerprint of the training views; a checkpoint of other views is refused. "" = not checked.
        photographs: a checksum of every training view's pixels by its name, as the run began; empty = not
            known. A run that goes on with other pixels says so.
    """

    gaussians: Gaussians
    optimizer: GaussianAdam
    densifier: Densifier
    sampler: ViewSampler
    generator: torch.Generator
    iteration: int = 0
    scene: str = ""
    photographs: dict[str, str] = field(default_factory=dict)
    local: torch.Generator = None  # type: ignore[assignment]
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.local is None:
            self.local = self.generator

    @property
    def total(self) -> int:
        """Gaussians of all processes."""
        return sum(self.counts) if self.counts else len(self.gaussians)

    @property
    def weight(self) -> float:
        """Factor on a mean over these Gaussians that makes its mean over the processes one over all."""
        return len(self.counts) * len(self.gaussians) / self.total if self.counts else 1.0
