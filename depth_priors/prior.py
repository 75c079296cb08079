"""What a depth prior is: a map that says itself what its numbers mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
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

    def depth(self) -> Tensor:
        """[H, W] camera z in the units of `frame`, which `affine` inverse depth has not; 0: not known."""
        return self.value if self.kind == "depth" else _inverted(self.value)

    def inverse(self) -> Tensor:
        """[H, W], one over camera z in those units; 0: not known."""
        return self.value if self.kind == "inverse" else _inverted(self.value)

    def to(self, device: torch.device | str) -> DepthPrior:
        """The same prior with its maps on `device`."""
        return dataclasses.replace(self, value=self.value.to(device), confidence=self.confidence.to(device))


def _inverted(value: Tensor) -> Tensor:
    return torch.where(value > 0, 1.0 / torch.where(value > 0, value, 1.0), 0.0)


def resized(prior: DepthPrior, width: int, height: int) -> DepthPrior:
    """The prior on another pixel grid; values are averaged by confidence, so that unknown ones do not count.

    Returns:
        The prior itself where it has that size already, else a new one on its device.
    """
    if prior.value.shape == (height, width):
        return prior
    return moved(prior, lambda image: resample(image, width, height))


class ResizedPriors:
    """Training views' priors at the size that is asked for; of each the last one is kept."""

    def __init__(self, priors: Sequence[DepthPrior | None]) -> None:
        self._priors = list(priors)
        self._last = list(priors)

    def __len__(self) -> int:
        """Number of views."""
        return len(self._priors)

    def get(self, index: int, width: int, height: int) -> DepthPrior | None:
        """The prior of view `index` as [height, width], None where it has none."""
        full, last = self._priors[index], self._last[index]
        if full is None or last is None:
            return None
        if last.value.shape != (height, width):
            last = self._last[index] = resized(full, width, height)
        return last


def moved(prior: DepthPrior, move: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> DepthPrior:
    """The prior after `move`, which interpolates a map [H, W]; values are weighed by confidence."""
    device = prior.value.device
    value, confidence = prior.value.cpu().numpy(), prior.confidence.cpu().numpy()
    total = move(confidence)
    mean = move(value * confidence) / np.maximum(total, 1e-12)
    sure = total > 1e-6
    return dataclasses.replace(
        prior,
        value=torch.from_numpy(np.where(sure, mean, 0).astype(np.float32)).to(device),
        confidence=torch.from_numpy(np.where(sure, total.clip(0, 1), 0).astype(np.float32)).to(device),
    )


def resample(image: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """A map [H, W] on another pixel grid: areas are averaged where it gets smaller."""
    if image.shape == (height, width):
        return image
    how = cv2.INTER_AREA if width * height < image.size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.float32)
