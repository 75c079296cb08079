"""The CPU backend: autograd functions around the C++ kernels (native/src/{project,sh,raster}.cpp).

float32 only. The same bits for any number of threads. Not differentiable twice, nor with respect to
the intrinsics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from native import call, empty
from rasterizer.stages import Coefficients, Projection

_MAX_CHANNELS = 4  # of one pass of the kernel; more are rendered in several passes


class CpuStages:
    """Projection, SH colour and compositing in C++."""

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
        settings = (width, height, eps2d, near_plane, far_plane, radius_clip, antialiased)
        radii, means2d, depths, conics, compensations = _Project.apply(
            means, quats, scales, opacities.detach(), viewmats, Ks, settings
        )
        return Projection(radii, means2d, depths, conics, compensations if antialiased else None)

    def spherical_harmonics(
        self, degree: int, means: Tensor, campos: Tensor, coeffs: Coefficients, radii: Tensor
    ) -> Tensor:
        """See `Stages.spherical_harmonics`; a pair is read where it lies."""
        first, rest = coeffs if isinstance(coeffs, tuple) else (coeffs, None)
        return _SphericalHarmonics.apply(means, campos, first, rest, radii, degree)

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
        if colors.shape[-1] > _MAX_CHANNELS:  # a row that one pass leaves out must be missing from all
            radii = radii * colors.isfinite().all(-1, keepdim=True)
        images, alphas = [], []
        for first in range(0, colors.shape[-1], _MAX_CHANNELS):
            part = slice(first, first + _MAX_CHANNELS)
            image, alpha = _Composite.apply(
                means2d,
                conics,
                colors[..., part],
                opacities,
                depths.detach(),
                radii,
                None if backgrounds is None else backgrounds[:, part],
                (counts, width, height, absgrad),
            )
            images.append(image)
            alphas.append(alpha)
        return (images[0] if len(images) == 1 else torch.cat(images, -1)), alphas[0]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        settings: tuple[int, int, float, float, float, float, bool],
    ) -> tuple[Tensor, ...]:
        width, height, eps2d, near, far, radius_clip, antialiased = settings
        means, quats, scales = means.contiguous(), quats.contiguous(), scales.contiguous()
        opacities, viewmats, Ks = opacities.contiguous(), viewmats.contiguous(), Ks.contiguous()
        n, c = means.shape[0], viewmats.shape[0]
        radii = empty(c, n, 2, dtype=torch.int32)
        means2d, depths, conics = empty(c, n, 2), empty(c, n), empty(c, n, 3)
        compensations = empty(c, n) if antialiased else torch.empty(0)
        call(
            "fs_project_forward", n, c, means, quats, scales, opacities, viewmats, Ks, width, height,
            eps2d, near, far, radius_clip, int(antialiased), radii, means2d, depths, conics,
            compensations if antialiased else None,
        )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, viewmats, Ks, radii)
        ctx.settings = settings
        ctx.mark_non_differentiable(radii)
        ctx.set_materialize_grads(False)
        return radii, means2d, depths, conics, compensations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _, v_means2d, v_depths, v_conics, v_compensations = (_dense(g) for g in grads)
        means, quats, scales, viewmats, Ks, radii = ctx.saved_tensors
        if v_means2d is None:
            v_means2d = torch.zeros(*radii.shape)
        if v_conics is None:
            v_conics = torch.zeros(*radii.shape[:2], 3)
        width, height, eps2d, near, far, *_ = ctx.settings
        v_means, v_quats, v_scales = (empty(*t.shape) for t in (means, quats, scales))
        v_viewmats = torch.empty_like(viewmats) if ctx.needs_input_grad[4] else None
        call(
            "fs_project_backward", means.shape[0], viewmats.shape[0], means, quats, scales, viewmats, Ks,
            width, height, eps2d, near, far, radii, v_means2d, v_depths, v_conics,
            v_compensations, v_means, v_quats, v_scales, v_viewmats,
        )  # fmt: skip
        return v_means, v_quats, v_scales, None, v_viewmats, None, None


class _SphericalHarmonics(torch.autograd.Function):
    """Coefficients are one tensor [.., K, 3], or the first basis's [.., 1, 3] and the rest's [.., K-1, 3]."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        campos: Tensor,
        first: Tensor,
        rest: Tensor | None,
        radii: Tensor,
        degree: int,
    ) -> Tensor:
        means, campos, first, radii = (t.contiguous() for t in (means, campos, first, radii))
        rest = None if rest is None else rest.contiguous()
        n, c = means.shape[0], campos.shape[0]
        colors = empty(c, n, 3)
        call(
            "fs_sh_forward", n, c, degree, int(first.dim() == 4), means, campos,
            *_parts(first, rest), radii, colors,
        )  # fmt: skip
        ctx.save_for_backward(means, campos, first, rest, radii, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, campos, first, rest, radii, colors = ctx.saved_tensors
        v_first, v_means = empty(*first.shape), empty(*means.shape)
        v_campos = torch.empty_like(campos) if ctx.needs_input_grad[1] else None
        v_rest = None if rest is None else empty(*rest.shape)
        v_parts = _parts(v_first, v_rest)
        bases = first.shape[-2] + (0 if rest is None else rest.shape[-2])
        call(
            "fs_sh_backward", means.shape[0], campos.shape[0], ctx.degree, bases, int(first.dim() == 4),
            means, campos, *_parts(first, rest), radii, colors, grads[0].contiguous(),
            v_parts[0], v_parts[2], v_means, v_campos,
        )  # fmt: skip
        return v_means, v_campos, v_first, v_rest, None, None


def _dense(gradient: Tensor | None) -> Tensor | None:
    """A gradient as the kernels take it; None (nothing depends on that output) is zero."""
    return None if gradient is None else gradient.contiguous()


def _parts(first: Tensor, rest: Tensor | None) -> tuple[int, int, int, int]:
    """Where the first basis's coefficients and the others' begin, each with its stride in floats."""
    stride = 3 * first.shape[-2]
    if rest is None:
        return first.data_ptr(), stride, first.data_ptr() + 3 * first.element_size(), stride
    return first.data_ptr(), stride, rest.data_ptr(), 3 * rest.shape[-2]


class _Handle:
    """Owns what one image's forward pass keeps for its backward pass."""

    def __init__(self, address: int) -> None:
        self.address = address

    def __del__(self) -> None:
        call("fs_raster_free", self.address)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        depths: Tensor,
        radii: Tensor,
        backgrounds: Tensor | None,
        settings: tuple[list[int], int, int, bool],
    ) -> tuple[Tensor, Tensor]:
        counts, width, height, _ = settings
        channels = colors.shape[-1]
        rows = [t.contiguous() for t in (means2d, conics, colors, opacities, depths)]
        radii = radii.contiguous()
        flat = [t.view(-1, *t.shape[t.dim() - k :]) for t, k in zip(rows, (1, 1, 1, 0, 0), strict=True)]
        flat_radii = radii.view(-1, 2)
        if backgrounds is not None:
            backgrounds = backgrounds.contiguous()
        image = empty(len(counts), height, width, channels)
        alpha = empty(len(counts), height, width, 1)
        ctx.handles = []
        start = 0
        for camera, count in enumerate(counts):
            part = [t[start : start + count] for t in flat]
            address = call(
                "fs_raster_forward", count, channels, *part, flat_radii[start : start + count],
                None if backgrounds is None else backgrounds[camera], width, height,
                image[camera], alpha[camera],
            )  # fmt: skip
            if address is None:
                raise MemoryError(
                    f"the rasterizer ran out of memory: {count} Gaussians at {width}x{height}: "
                    "lower the resolution (-r) or the number or size of Gaussians"
                )
            ctx.handles.append(_Handle(address))
            start += count
        ctx.save_for_backward(means2d, rows[3], image, alpha)
        ctx.settings = settings
        ctx.shapes = [t.shape for t in rows]
        ctx.set_materialize_grads(False)
        return image, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means2d, opacities, image, alpha = ctx.saved_tensors
        counts, width, height, absgrad = ctx.settings
        v_image, v_alpha = _dense(grads[0]), _dense(grads[1])
        if v_image is None:
            v_image = torch.zeros_like(image)
        v_means2d, v_conics, v_colors, v_opacities = (empty(*shape) for shape in ctx.shapes[:4])
        v_abs = empty(*ctx.shapes[0]) if absgrad else None
        flat_opacities = opacities.view(-1)
        start = 0
        for camera, (count, handle) in enumerate(zip(counts, ctx.handles, strict=True)):
            part = slice(start, start + count)
            failed = call(
                "fs_raster_backward", handle.address, flat_opacities[part], image[camera], v_image[camera],
                None if v_alpha is None else v_alpha[camera], v_means2d.view(-1, 2)[part],
                None if v_abs is None else v_abs.view(-1, 2)[part], v_conics.view(-1, 3)[part],
                v_colors.view(-1, image.shape[-1])[part], v_opacities.view(-1)[part],
            )  # fmt: skip
            if failed:
                raise MemoryError(
                    f"the rasterizer's backward pass ran out of memory: {count} Gaussians at {width}x{height}"
                )
            start += count
        if v_abs is not None:
            earlier = getattr(means2d, "absgrad", None)
            means2d.absgrad = v_abs if earlier is None else earlier + v_abs
        v_backgrounds = (v_image * (1 - alpha)).sum(1).sum(1) if ctx.needs_input_grad[6] else None
        return v_means2d, v_conics, v_colors, v_opacities, None, None, v_backgrounds, None
