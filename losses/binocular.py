"""Consistency with a camera beside the view's own: needs no second photograph.

The view's camera is moved a little along its own x axis and the Gaussians are rendered from there. Moved
back by the rendered depth of the view itself, that picture must be the photograph (Han et al., Binocular-
Guided 3D Gaussian Splatting, 2024). It binds depth to colour where one photograph alone leaves depth free,
and punishes Gaussians that look right from one place only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from losses.sums import mean
from native import call, empty
from scene import Camera

FEWEST = 200
"""Pixels that must be seen from both places."""
LEAST_ALPHA = 0.5
"""Opacity below which a rendered depth says nothing."""


def draw_shift(largest: float, generator: torch.Generator) -> float:
    """How far to move the picture, in its widths: uniform, either way.

    Args:
        largest: a share of the width.
        generator: CPU generator.
    """
    return largest * (2.0 * float(torch.rand((), generator=generator)) - 1.0)


def baseline_of(shift: float, camera: Camera, depth: Tensor) -> float:
    """How far that is along the camera's x axis, world units; 0 if nothing is seen.

    Args:
        shift: in picture widths, which is by how much the median depth moves.
        camera: the view's.
        depth: [H, W], rendered camera z.
    """
    known = depth.detach()[depth.detach() > 0]
    if not len(known):
        return 0.0
    return shift * camera.width * float(known.median()) / float(camera.K[0, 0])


def beside(camera: Camera, baseline: float) -> Camera:
    """The camera moved by `baseline` along its x axis."""
    viewmat = camera.viewmat.clone()
    viewmat[0, 3] -= baseline
    return replace(camera, viewmat=viewmat)


def binocular_loss(
    seen: Tensor,
    depth: Tensor,
    alpha: Tensor,
    camera: Camera,
    baseline: float,
    target: Tensor,
    weight: Tensor | None,
) -> Tensor | None:
    """Mean absolute difference of the photograph and the picture from beside, moved back by depth.

    Args:
        seen: [H, W, 3], rendered from `beside(camera, baseline)`; differentiable.
        depth: [H, W], camera z rendered from `camera`; differentiable.
        alpha: [H, W], likewise; no gradient.
        camera: the view's.
        baseline: world units.
        target: [H, W, 3], the photograph.
        weight: [H, W] >= 0 of the photograph's pixels, or None.

    Returns:
        A scalar >= 0, or None where fewer than 200 pixels are seen from both places.
    """
    known = depth > 0
    disparity = torch.where(known, float(camera.K[0, 0]) * baseline / torch.where(known, depth, 1.0), 0.0)
    moved, inside = row_warp(seen, disparity)
    usable = inside * known * (alpha.detach() > LEAST_ALPHA)
    usable = usable if weight is None else usable * weight
    if int((usable > 0).sum()) < FEWEST:
        return None
    return mean((moved - target).abs().mean(-1), usable)


def row_warp(image: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
    """out(x, y) = image(x - disparity(x, y), y), linear along the rows; and where that is in the picture.

    Args:
        image: [H, W, 3]; differentiable.
        disparity: [H, W], pixels; differentiable.

    Returns:
        [H, W, 3], 0 outside; [H, W], 1 inside and 0 outside, no gradient. On the CPU the same bits for any
        number of threads.
    """
    if image.device.type == "cpu" and image.dtype == torch.float32:
        return _RowWarp.apply(image, disparity)
    width = image.shape[1]
    at = torch.arange(width, device=image.device, dtype=image.dtype) - disparity
    inside = (at >= 0) & (at <= width - 1)
    left = at.detach().nan_to_num().clamp(0, max(width - 2, 0)).floor().long()
    share = torch.where(inside, at - left, 0.0)[..., None]
    rows = torch.arange(image.shape[0], device=image.device)[:, None]
    a, b = image[rows, left], image[rows, (left + 1).clamp_max(width - 1)]
    return torch.where(inside[..., None], a + share * (b - a), 0.0), inside.to(image)


class _RowWarp(torch.autograd.Function):
    """native/src/warp.cpp."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
        image, disparity = image.contiguous(), disparity.contiguous()
        height, width = disparity.shape
        out, inside = empty(height, width, 3), empty(height, width)
        call("fs_row_warp_forward", width, height, image, disparity, out, inside)
        ctx.save_for_backward(image, disparity)
        ctx.mark_non_differentiable(inside)
        return out, inside

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        image, disparity = ctx.saved_tensors
        height, width = disparity.shape
        grad_image, grad_disparity = empty(height, width, 3), empty(height, width)
        call(
            "fs_row_warp_backward", width, height, image, disparity, grads[0].contiguous(), grad_image,
            grad_disparity,
        )  # fmt: skip
        return grad_image, grad_disparity
