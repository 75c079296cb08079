"""What a depth prior is: a map that says itself what its numbers mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["inverse", "depth"]
Frame = Literal["affine", "scale", "world"]


@dataclass(frozen=True, eq=False)
class DepthPrior:
    """Depth of one view, and how far it is to be trusted.

    Raises:
        ValueError: two maps of unequal size, or not float32.
    """

    value: Tensor
    """[H, W] float32. Where nothing is known it is 0 and so is the confidence."""
    kind: Kind
    """`inverse`: one over camera z; `depth`: camera z."""
    frame: Frame
    """`world`: in world units; `scale`: up to a factor; `affine`: up to a factor and an offset."""
    confidence: Tensor
    """[H, W] float32 in [0, 1]."""
    source: str
    """The provider's name."""

    def __post_init__(self) -> None:
        """Checks sizes and types."""
        for name, tensor in (("value", self.value), ("confidence", self.confidence)):
            if tensor.ndim != 2 or tensor.shape != self.value.shape or tensor.dtype != torch.float32:
                raise ValueError(
                    f"{self.source}: {name}: expected [H, W] float32 of one size, "
                    f"got {list(tensor.shape)} {tensor.dtype}"
                )
