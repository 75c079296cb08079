"""LPIPS (Zhang et al., CVPR 2018), only if its network is already on this machine.

The VGG16 weights are 528 MB from torchvision; this program never downloads. Whoever wants LPIPS puts
the file into torch's hub cache once, and it is found there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_WEIGHTS = "vgg16-397923af.pth"  # torchvision's name for VGG16_Weights.IMAGENET1K_V1


@dataclass(frozen=True)
class Perceptual:
    """LPIPS if it can be computed, else why not.

    Attributes:
        distance: Maps two images [H, W, 3] in [0, 1] to their LPIPS; None if not available.
        reason: Why not; empty if available.
    """

    distance: Callable[[Tensor, Tensor], float] | None = None
    reason: str = "not asked for"


def load_perceptual(device: torch.device | str = "cpu") -> Perceptual:
    """The VGG LPIPS of torchmetrics, with torchvision's weights from the hub cache.

    Args:
        device: Where the network runs.

    Returns:
        The distance, or the reason why there is none. Never downloads, never raises for lack of files.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS
    if not path.is_file():
        return Perceptual(reason=f"the VGG16 weights are not on disk ({path})")
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        network = LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=True).to(device).eval()
    except Exception as error:  # a broken file or package must not cost the other metrics
        return Perceptual(reason=f"LPIPS could not be loaded from {path}: {error}".splitlines()[0])

    @torch.no_grad()
    def distance(a: Tensor, b: Tensor) -> float:
        pair = (image.to(device, torch.float32).permute(2, 0, 1)[None] for image in (a, b))
        value = float(network(*pair))
        network.reset()  # it accumulates a mean that we do not use
        return value

    return Perceptual(distance, "")
