"""From Gaussians and cameras to colour, depth and alpha: the call of the rasterizer.

Colour and depth come out of one pass. The rasterizer speaks tensors; this is the only file that
knows both a `Camera` and its signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from rasterizer import RenderOutput, rasterization
from scene import Camera

if TYPE_CHECKING:
    from gaussian_model.gaussians import Gaussians

_RENDER_MODES: dict[Literal["ED", "D"] | None, Literal["RGB", "RGB+ED", "RGB+D"]] = {
    None: "RGB",
    "ED": "RGB+ED",
    "D": "RGB+D",
}


def render(
    gaussians: Gaussians,
    cameras: Camera | Sequence[Camera],
    *,
    background: Tensor | None = None,
    sh_degree: int | None = None,
    depth: Literal["ED", "D"] | None = "ED",
    absgrad: bool = False,
    opacity_factors: Tensor | None = None,
    antialiased: bool = False,
    distributed: bool = False,
    backend: str = "auto",
) -> RenderOutput:
    """Render C cameras of one size.

    At degree 0 `shN` does not go into the pass: it gets no gradient at all (None) and costs neither
    memory traffic nor an optimizer step.

    Args:
        gaussians: N Gaussians; the cameras are brought to their device.
        cameras: one camera or C of them with equal width and height.
        background: colour [3] behind the Gaussians; None is black.
        sh_degree: active degree, at most the model's; None is the model's.
        depth: `ED` = expected depth, `D` = accumulated depth (both camera z, world units), None = no
            depth: zeros, and a cheaper pass.
        absgrad: let backward also leave `info["means2d"].absgrad`.
        opacity_factors: [N] >= 0 on opacities, whose product stays at most 1 (dropout); None = 1.
        antialiased: compensate opacities for the screen-space filter.
        distributed: these are this process's share of the Gaussians, and the images show all processes';
            see `rasterizer.rasterization`.
        backend: `auto` or one of `rasterizer.available_backends()`.

    Returns:
        color [C,H,W,3] (not clamped), depth [C,H,W], alpha [C,H,W] and the rasterizer's meta. A pixel
        that nothing covers reads the background, alpha 0 and depth 0.

    Raises:
        ValueError: no camera, cameras of several sizes, or a degree that the model does not have.
    """
    views = [cameras] if isinstance(cameras, Camera) else list(cameras)
    if not views:
        raise ValueError("cameras: expected at least one, got none")
    width, height = views[0].width, views[0].height
    if any((view.width, view.height) != (width, height) for view in views):
        sizes = sorted({(view.width, view.height) for view in views})
        raise ValueError(f"cameras: expected one size per pass, got {sizes}; render them one by one")
    degree = gaussians.max_sh_degree if sh_degree is None else sh_degree
    if not 0 <= degree <= gaussians.max_sh_degree:
        raise ValueError(f"sh_degree: expected 0 to {gaussians.max_sh_degree}, got {degree}")

    device = gaussians.device
    params = gaussians.params
    opacities = gaussians.linear_opacities()
    if opacity_factors is not None:
        opacities = (opacities * opacity_factors.to(device)).clamp_max(1.0)
    colors, alphas, info = rasterization(
        params["means"],
        params["quats"],
        gaussians.linear_scales(),
        opacities,
        params["sh0"] if degree == 0 else (params["sh0"], params["shN"]),
        torch.stack([view.viewmat for view in views]).to(device),
        torch.stack([view.K for view in views]).to(device),
        width,
        height,
        sh_degree=degree,
        packed=False,
        backgrounds=None if background is None else background.to(device).expand(len(views), 3),
        render_mode=_RENDER_MODES[depth],
        absgrad=absgrad,
        rasterize_mode="antialiased" if antialiased else "classic",
        distributed=distributed,
        backend=backend,
    )
    alpha = alphas[..., 0]
    return RenderOutput(
        color=colors if depth is None else colors[..., :3],  # a slice's gradient is a cleared copy
        depth=alpha.new_zeros(()).expand_as(alpha) if depth is None else colors[..., 3],
        alpha=alpha,
        info=info,
    )
