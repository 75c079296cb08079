"""The judge: plain torch, any dtype, differentiable by autograd, no tiles, never optimised.

Memory grows with Gaussians times pixels; it is for tests and for machines without a compiler. It
follows gsplat 1.5.3's rules (see contract.py) and imports nothing of gsplat. Rows that the rules
cull, or whose numbers are not finite, take no part and get no gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rasterizer.contract import MAX_ALPHA, MAX_EXTENT_SIGMAS, MIN_ALPHA, MIN_TRANSMITTANCE
from rasterizer.stages import Coefficients, Projection


class ReferenceStages:
    """Projection, SH colour and compositing as formulas."""

    def project(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        *,
        width: int,
        height: int,
        eps2d: float,
        near_plane: float,
        far_plane: float,
        radius_clip: float,
        antialiased: bool,
    ) -> Projection:
        """See `Stages.project`."""
        with torch.no_grad():  # finds the rows to draw: only they enter the formulas that autograd sees
            z = torch.einsum("cj,nj->cn", viewmats[:, 2, :3], means) + viewmats[:, 2, 3:4]
            norm2 = (quats * quats).sum(-1)
            usable = means.isfinite().all(-1) & norm2.isfinite() & (norm2 >= torch.finfo(quats.dtype).tiny)
            usable &= scales.isfinite().all(-1) & opacities.isfinite()
            cam, gau = torch.nonzero(usable & (z >= near_plane) & (z <= far_plane), as_tuple=True)
            mean2d, _, cov = _project_rows(
                means[gau], quats[gau], scales[gau], viewmats[cam], Ks[cam], width, height
            )
            det_sharp, a, b, c, det = _blur(cov, eps2d)
            ratio = (det_sharp / det).clamp(min=0)
            opacity = opacities[gau] * ratio.sqrt() if antialiased else opacities[gau]
            extent = torch.sqrt(2 * torch.log(opacity.clamp(min=MIN_ALPHA) / MIN_ALPHA)).clamp(
                max=MAX_EXTENT_SIGMAS
            )
            rx, ry = torch.ceil(extent * a.sqrt()), torch.ceil(extent * c.sqrt())
            seen = (
                (det > 0)
                & det.isfinite()
                & (opacity >= MIN_ALPHA)
                & ((rx > radius_clip) | (ry > radius_clip))
            )
            seen &= (mean2d[:, 0] + rx > 0) & (mean2d[:, 0] - rx < width)
            seen &= (mean2d[:, 1] + ry > 0) & (mean2d[:, 1] - ry < height) & mean2d.isfinite().all(-1)
            cam, gau, rx, ry = cam[seen], gau[seen], rx[seen], ry[seen]
        mean2d, depth, cov = _project_rows(
            means[gau], quats[gau], scales[gau], viewmats[cam], Ks[cam], width, height
        )
        det_sharp, a, b, c, det = _blur(cov, eps2d)
        shape = (viewmats.shape[0], means.shape[0])

        def scatter(rows: Tensor) -> Tensor:
            return rows.new_zeros(*shape, *rows.shape[1:]).index_put((cam, gau), rows)

        compensations = None
        if antialiased:
            sharp = det_sharp / det
            compensations = scatter(
                torch.where(sharp > 0, sharp.clamp(min=1e-30).sqrt(), torch.zeros_like(sharp))
            )
        radius = torch.stack([rx, ry], -1).clamp(max=1e9).to(torch.int32)
        conic = torch.stack([c / det, -b / det, a / det], -1)
        return Projection(scatter(radius), scatter(mean2d), scatter(depth), scatter(conic), compensations)

    def spherical_harmonics(
        self, degree: int, means: Tensor, campos: Tensor, coeffs: Coefficients, radii: Tensor
    ) -> Tensor:
        """See `Stages.spherical_harmonics`."""
        coeffs = torch.cat(coeffs, -2) if isinstance(coeffs, tuple) else coeffs
        bases = (degree + 1) ** 2
        visible = (radii > 0).all(-1)
        finite = coeffs[..., :bases, :].isfinite().all(-1).all(-1)  # [N] or [C, N]
        cam, gau = torch.nonzero(visible & finite, as_tuple=True)
        direction = torch.nn.functional.normalize(means[gau] - campos[cam], dim=-1)
        rows = coeffs[cam, gau] if coeffs.dim() == 4 else coeffs[gau]
        color = torch.einsum("mk,mkd->md", sh_basis(degree, direction), rows[:, :bases]) + 0.5
        out = color.new_zeros(*visible.shape, 3)
        out[visible & ~finite] = math.nan  # compositing leaves such rows out
        return out.index_put((cam, gau), color.clamp(min=0))

    def composite(
        self,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        depths: Tensor,
        radii: Tensor,
        counts: list[int],
        *,
        width: int,
        height: int,
        backgrounds: Tensor | None,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `Stages.composite`."""
        d = colors.shape[-1]
        conics, colors, opacities = conics.reshape(-1, 3), colors.reshape(-1, d), opacities.reshape(-1)
        images, alphas, start = [], [], 0
        for camera, count in enumerate(counts):
            with torch.no_grad():
                part = slice(start, start + count)
                order = _visible_in_depth_order(
                    means2d.reshape(-1, 2)[part],
                    conics[part],
                    colors[part],
                    opacities[part],
                    depths.reshape(-1)[part],
                    radii.reshape(-1, 2)[part],
                )
            rows = start + order
            start += count
            if absgrad:
                centers = _PixelCenters.apply(means2d, rows, height, width)
            else:
                centers = means2d.reshape(-1, 2)[rows][:, None, None, :]
            background = None if backgrounds is None else backgrounds[camera]
            image, alpha = _blend(
                centers, conics[rows], colors[rows], opacities[rows], width, height, background
            )
            images.append(image)
            alphas.append(alpha)
        return torch.stack(images), torch.stack(alphas)


def _project_rows(
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row by row: mean [M, 2], depth [M] and sharp covariance (xx, xy, yy) [M, 3] on the image plane."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rotation = torch.stack(
        [
            *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
            *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
            *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
        ],
        -1,
    ).reshape(-1, 3, 3)
    axes = viewmats[:, :3, :3] @ (rotation * scales[:, None, :])
    p = (viewmats[:, :3, :3] @ means[:, :, None])[..., 0] + viewmats[:, :3, 3]
    fx, fy, cx, cy = Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]
    depth = p[:, 2]
    slack_x, slack_y = 0.15 * width / fx, 0.15 * height / fy  # 0.3 times half the field of view
    u = torch.maximum(torch.minimum(p[:, 0] / depth, (width - cx) / fx + slack_x), -cx / fx - slack_x)
    v = torch.maximum(torch.minimum(p[:, 1] / depth, (height - cy) / fy + slack_y), -cy / fy - slack_y)
    zero = torch.zeros_like(depth)
    jacobian = torch.stack(
        [fx / depth, zero, -fx * u / depth, zero, fy / depth, -fy * v / depth], -1
    ).reshape(-1, 2, 3)
    flat_axes = jacobian @ axes
    cov = flat_axes @ flat_axes.transpose(1, 2)
    mean2d = torch.stack([fx * p[:, 0] / depth + cx, fy * p[:, 1] / depth + cy], -1)
    return mean2d, depth, torch.stack([cov[:, 0, 0], cov[:, 0, 1], cov[:, 1, 1]], -1)


def _blur(cov: Tensor, eps2d: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Determinant of the sharp covariance, then xx, xy, yy and determinant of the blurred one, each [M]."""
    a, b, c = cov[:, 0] + eps2d, cov[:, 1], cov[:, 2] + eps2d
    return cov[:, 0] * cov[:, 2] - b * b, a, b, c, a * c - b * b


class _PixelCenters(torch.autograd.Function):
    """Hands every pixel its own copy of the rows' centres, to see the gradient of each pixel apart."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, rows: Tensor, height: int, width: int) -> Tensor:
        ctx.save_for_backward(means2d, rows)
        return means2d.reshape(-1, 2)[rows][:, None, None, :].expand(len(rows), height, width, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means2d, rows = ctx.saved_tensors
        total = means2d.new_zeros(means2d.shape)
        total.view(-1, 2)[rows] = grads[0].sum((1, 2))
        absolute = getattr(means2d, "absgrad", None)
        absolute = means2d.new_zeros(means2d.shape) if absolute is None else absolute
        absolute.view(-1, 2)[rows] += grads[0].abs().sum((1, 2))
        means2d.absgrad = absolute
        return total, None, None, None


def _visible_in_depth_order(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, depths: Tensor, radii: Tensor
) -> Tensor:
    """Indices [V] of the rows that can be drawn, nearest first; rows of equal depth keep their order."""
    det = conics[:, 0] * conics[:, 2] - conics[:, 1] ** 2
    usable = (radii > 0).all(-1) & colors.isfinite().all(-1) & opacities.isfinite() & (opacities >= MIN_ALPHA)
    usable &= (conics[:, 0] > 0) & (det > 0) & det.isfinite() & means2d.isfinite().all(-1) & depths.isfinite()
    rows = torch.nonzero(usable)[:, 0]
    return rows[torch.argsort(depths[rows], stable=True)]


def _blend(
    centers: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    background: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Front-to-back blending; centers [V, H, W, 2] or [V, 1, 1, 2] -> image [H, W, D], alpha [H, W, 1]."""
    like: dict[str, Any] = {"dtype": conics.dtype, "device": conics.device}
    py, px = torch.meshgrid(
        torch.arange(height, **like) + 0.5, torch.arange(width, **like) + 0.5, indexing="ij"
    )
    dx, dy = centers[..., 0] - px, centers[..., 1] - py
    a, b, c = conics[:, :, None, None].unbind(1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[:, None, None] * torch.exp(-sigma.clamp(min=0))).clamp(max=MAX_ALPHA)
    alpha = torch.where(alpha >= MIN_ALPHA, alpha, torch.zeros_like(alpha))
    # A pixel ends at the first contribution that would bring it to MIN_TRANSMITTANCE: the product only falls.
    alive = torch.cumprod(1 - alpha, 0) > MIN_TRANSMITTANCE
    alpha = torch.where(alive, alpha, torch.zeros_like(alpha))
    after = torch.cat([torch.ones(1, height, width, **like), torch.cumprod(1 - alpha, 0)])
    image = torch.einsum("vhw,vd->hwd", alpha * after[:-1], colors)
    left = after[-1][..., None]
    return (image if background is None else image + left * background), 1 - left


def sh_basis(degree: int, direction: Tensor) -> Tensor:
    """Real spherical harmonics [M, (degree+1)^2] at unit directions [M, 3]; degree 0 to 4.

    Sign convention of the 3DGS family; source: Sloan, "Efficient Spherical Harmonic Evaluation", 2013.
    """
    x, y, z = direction.unbind(-1)
    one = torch.ones_like(x)
    out = [0.28209479177387814 * one]
    if degree >= 1:
        out += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        out += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (3 * z * z - 1),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        out += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * z * z - 1),
            0.3731763325901154 * z * (5 * z * z - 3),
            -0.4570457994644658 * x * (5 * z * z - 1),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    if degree >= 4:
        out += [
            2.5033429417967046 * x * y * (x * x - y * y),
            -1.7701307697799304 * y * z * (3 * x * x - y * y),
            0.9461746957575601 * x * y * (7 * z * z - 1),
            -0.6690465435572892 * y * z * (7 * z * z - 3),
            0.10578554691520431 * (35 * z**4 - 30 * z * z + 3),
            -0.6690465435572892 * x * z * (7 * z * z - 3),
            0.47308734787878004 * (x * x - y * y) * (7 * z * z - 1),
            -1.7701307697799304 * x * z * (x * x - 3 * y * y),
            0.6258357354491761 * (x * x * (x * x - 3 * y * y) - y * y * (3 * x * x - y * y)),
        ]
    return torch.stack(out, -1)
