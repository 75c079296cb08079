"""One pass over views: render, measure, and keep the pictures if wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evaluation.metrics import psnr, to_8bit
from evaluation.perceptual import Perceptual
from evaluation.pictures import colorize_depth, save_npy, save_png
from evaluation.report import Report, Scores
from losses import ssim
from progress import Bar
from rasterizer.contract import RenderOutput
from scene import View


@torch.no_grad()
def evaluate(
    views: Sequence[View],
    render: Callable[[View], RenderOutput],
    *,
    background: Tensor | None = None,
    perceptual: Perceptual | None = None,
    folder: Path | None = None,
    progress: str = "",
) -> Report:
    """Compares renders with photographs.

    Args:
        views: What to compare with; may be empty.
        render: Gives the picture of a view's camera (C = 1), behind `background`.
        background: [3] colour behind photographs that have an alpha; None is black.
        perceptual: LPIPS, from `load_perceptual`; None does not compute it.
        folder: If given, receives `renders/STEM.png`, `gt/STEM.png`, `depth/STEM.png` in colour and
            `depth/STEM.npy` ([H, W] float32).
        progress: Label of a progress bar; empty for none.

    Returns:
        Figures of every view.
    """
    perceptual = perceptual or Perceptual()
    if folder is not None:
        for part in ("renders", "gt", "depth"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    scores: dict[str, Scores] = {}
    masked = []
    for view in Bar(views, desc=progress, unit="view", quiet=not progress):
        output = render(view)
        image = to_8bit(output.color[0])
        target = to_8bit(view.image(background)).to(image.device)
        weight = view.weight()
        weight = None if weight is None else weight.to(image.device)
        if weight is not None:
            masked.append(view.name)
        scores[view.stem] = _measure(image / 255.0, target / 255.0, weight, perceptual)
        if folder is not None:
            _save(folder, view.stem, image, target, output)
    return Report(scores, tuple(masked), perceptual.reason)


def _measure(image: Tensor, target: Tensor, weight: Tensor | None, perceptual: Perceptual) -> Scores:
    """Figures of two images [H, W, 3] in [0, 1] with weights [H, W]."""
    pixels = float(image.shape[0] * image.shape[1]) if weight is None else float(weight.sum())
    if pixels == 0:
        return Scores(math.nan, math.nan, None, 0.0)
    lpips = None
    if perceptual.distance is not None:
        shown = image if weight is None else torch.where(weight[..., None] > 0.5, image, target)
        lpips = perceptual.distance(shown, target)
    return Scores(psnr(image, target, weight), float(ssim(image, target, weight)), lpips, pixels)


def _save(folder: Path, stem: str, image: Tensor, target: Tensor, output: RenderOutput) -> None:
    depth, alpha = output.depth[0], output.alpha[0]
    save_png(folder / "renders" / f"{stem}.png", image)
    save_png(folder / "gt" / f"{stem}.png", target)
    save_png(folder / "depth" / f"{stem}.png", colorize_depth(depth, alpha))
    save_npy(folder / "depth" / f"{stem}.npy", depth)
