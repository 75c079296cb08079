"""Gaussians to pixels, with gradients: one call with gsplat's signature, three backends behind it.

`gsplat` (NVIDIA GPUs), `cpu` (our C++ SIMD kernels) and `reference` (plain torch, any dtype, slow).
This room speaks tensors only: it knows no camera, scene or model class.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor

from rasterizer import gsplat_backend
from rasterizer.contract import (
    MAX_SH_DEGREE,
    RENDER_MODES,
    TILE_SIZE,
    RenderMode,
    RenderOutput,
)
from rasterizer.gsplat_backend import BackendError
from rasterizer.stages import Coefficients, Stages, rasterize

__all__ = [
    "BACKENDS",
    "BackendError",
    "RenderOutput",
    "available_backends",
    "rasterization",
    "resolve_backend",
]

BACKENDS = ("gsplat", "cpu", "reference")
_log = logging.getLogger(__name__)
_CHANNEL_CHUNK = 32  # gsplat 1.5.3's default


def available_backends() -> list[str]:
    """The backends that can run here, fastest first; gsplat's CUDA code may still have to compile."""
    from native import NativeBuildError, find_compiler

    found = [] if gsplat_backend.why_unavailable() else ["gsplat"]
    try:
        find_compiler()
        found.append("cpu")
    except NativeBuildError:
        pass
    return [*found, "reference"]


def resolve_backend(name: str = "auto") -> str:
    """Turns `auto` into gsplat where it can run, else cpu; checks that a named backend can run.

    Where that is gsplat, its CUDA code is compiled here if need be, before any work is done. Where there is a
    GPU and gsplat cannot use it, `auto` says why.

    Raises:
        BackendError: the name is unknown, or that backend cannot run here (with the reason).
        NativeBuildError: cpu is asked for and there is no C++ compiler.
    """
    if name in ("auto", "gsplat"):
        reason = gsplat_backend.why_unavailable() or gsplat_backend.why_not_compiled()
        if reason is None:
            return "gsplat"
        if name == "gsplat":
            raise BackendError(f"--backend gsplat: {reason}; or use --backend cpu")
        if torch.cuda.is_available():
            _log.warning("the GPU stays unused, the CPU does all the work (--backend cpu): %s", reason)
        name = "cpu"
    if name == "cpu":
        from native import find_compiler

        find_compiler()
    elif name != "reference":
        raise BackendError(f"--backend: expected auto, {', '.join(BACKENDS)}; got {name!r}")
    return name


def rasterization(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    colors: Coefficients,  # [(C,) N, D] or [(C,) N, K, 3]
    viewmats: Tensor,  # [C, 4, 4]
    Ks: Tensor,  # [C, 3, 3]
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Tensor | None = None,  # [C, D]
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: str = "classic",
    channel_chunk: int = _CHANNEL_CHUNK,
    distributed: bool = False,
    camera_model: str = "pinhole",
    segmented: bool = False,
    covars: Tensor | None = None,
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,
    tangential_coeffs: Tensor | None = None,
    thin_prism_coeffs: Tensor | None = None,
    ftheta_coeffs: Any | None = None,
    rolling_shutter: Any | None = None,
    viewmats_rs: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Renders N Gaussians to C images; names, order, meaning and result of `gsplat.rasterization` 1.5.3.

    Args:
        means: centres, world space. [N, 3]
        quats: rotations, wxyz, any norm but 0. [N, 4]
        scales: standard deviations along the axes, linear, world units. [N, 3]
        opacities: linear, in [0, 1]. [N]
        colors: features [N, D] or [C, N, D]; with `sh_degree`, SH coefficients [N, K, 3] or [C, N, K, 3].
            Beyond gsplat, coefficients may also come as the pair of [N, 1, 3] and [N, K-1, 3], which the
            cpu backend reads without the copy that joining them takes.
        viewmats: world-to-camera, OpenCV axes. [C, 4, 4]
        Ks: pinhole intrinsics in pixels, no skew. [C, 3, 3]
        width: pixels.
        height: pixels.
        near_plane: Gaussians with a camera-space z below it are culled.
        far_plane: likewise above it.
        radius_clip: Gaussians whose box is at most this many pixels in both half-widths are culled.
        eps2d: blur added to the 2D covariance's diagonal, pixels^2.
        sh_degree: active SH degree, 0 to 4, with (degree+1)^2 <= K; None: colors are used as they are.
        packed: meta holds visible rows only ([nnz, ...] with camera_ids and gaussian_ids), not [C, N, ...].
        tile_size: 16.
        backgrounds: [C, D], seen through what transmittance is left; depth channels have none.
        render_mode: RGB, D (accumulated z), ED (z / alpha), RGB+D or RGB+ED (z as last channel).
        sparse_grad: gsplat backend only.
        absgrad: backward sets `meta["means2d"].absgrad` to the summed absolute pixel gradients (AbsGS). The
            cpu backend renders more than four channels in several passes, whose absolute values add up, as
            those of gsplat's chunks of more than `channel_chunk` do.
        rasterize_mode: classic, or antialiased (Mip-Splatting's opacity compensation).
        channel_chunk: how many channels gsplat renders at once; no effect on the result. gsplat 1.5 only.
        distributed: each process of torch.distributed gives its own N Gaussians and C cameras (as many as the
            others, of the same size) and gets the images of all processes' Gaussians. meta's means2d and
            radii are then those of its own Gaussians in the cameras of all processes, [sum of C, N, ...] in
            the order of ranks, and their gradients complete. All call it, and its backward, in step; each
            has at least one Gaussian. Needs packed=False and no absgrad. gsplat backend only; so are the
            arguments below.
        camera_model: pinhole; others with gsplat only.
        segmented: gsplat's choice of sorting.
        covars: covariances in place of quats and scales.
        with_ut: unscented transform.
        with_eval3d: evaluation in world space.
        radial_coeffs: lens distortion; so are the next three.
        tangential_coeffs: see gsplat.
        thin_prism_coeffs: see gsplat.
        ftheta_coeffs: see gsplat.
        rolling_shutter: see gsplat.
        viewmats_rs: see gsplat.
        backend: gsplat, cpu, reference, or auto (gsplat for CUDA tensors, cpu for others).

    Returns:
        colors [C, H, W, X], alphas [C, H, W, 1] and meta (means2d in pixels, radii, depths, conics,
        opacities, camera_ids, gaussian_ids, width, height, n_cameras, tile_size, tile_width, tile_height).
        Differentiable in means, quats, scales, opacities, colors, viewmats and backgrounds. An empty pixel
        reads the background (0 without one), alpha 0 and depth 0.

    Raises:
        NotImplementedError: an argument that the chosen backend does not support, by name.
        ValueError: a shape or value that does not fit, by name.
        TypeError: a dtype that the backend does not take.
        BackendError: the backend cannot run here.
    """
    if backend == "auto":
        backend = "gsplat" if means.is_cuda else "cpu"
    gsplat_only = {
        "sparse_grad": sparse_grad,
        "distributed": distributed,
        "segmented": segmented,
        "covars": covars,
        "with_ut": with_ut,
        "with_eval3d": with_eval3d,
        "radial_coeffs": radial_coeffs,
        "tangential_coeffs": tangential_coeffs,
        "thin_prism_coeffs": thin_prism_coeffs,
        "ftheta_coeffs": ftheta_coeffs,
        "viewmats_rs": viewmats_rs,
    }
    if isinstance(colors, tuple):
        if sh_degree is None:
            raise ValueError("colors: a pair is SH coefficients; give their sh_degree")
        if not all(isinstance(part, Tensor) and part.dim() == 3 for part in colors) or len(colors) != 2:
            raise ValueError("colors: expected a tensor, or a pair of tensors [N, 1, 3] and [N, K-1, 3]")
    if backend == "gsplat":
        if distributed:
            _check_distributed(packed, absgrad)
        if isinstance(colors, tuple):
            colors = torch.cat([colors[0], colors[1][:, : (sh_degree or 0) * ((sh_degree or 0) + 2)]], 1)
        # Defaults are left out: gsplat's next version has no channel_chunk, and more names may go.
        extra = {
            name: value for name, value in gsplat_only.items() if value is not None and value is not False
        }
        if channel_chunk != _CHANNEL_CHUNK:
            extra["channel_chunk"] = channel_chunk
        if rolling_shutter is not None:
            extra["rolling_shutter"] = rolling_shutter
        return gsplat_backend.rasterization(
            means, quats, scales, opacities, colors, viewmats, Ks, width, height,
            near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d,
            sh_degree=sh_degree, packed=packed, tile_size=tile_size, backgrounds=backgrounds,
            render_mode=render_mode, absgrad=absgrad, rasterize_mode=rasterize_mode,
            camera_model=camera_model, **extra,
        )  # fmt: skip
    for name, value in gsplat_only.items():
        if value is not None and value is not False:
            raise NotImplementedError(f"{name}: supported by the gsplat backend only, not by {backend!r}")
    if rolling_shutter is not None and getattr(rolling_shutter, "name", rolling_shutter) != "GLOBAL":
        raise NotImplementedError(
            f"rolling_shutter: supported by the gsplat backend only, not by {backend!r}"
        )
    if camera_model != "pinhole":
        raise NotImplementedError(f"camera_model: {backend!r} supports 'pinhole', got {camera_model!r}")
    if tile_size != TILE_SIZE:
        raise NotImplementedError(f"tile_size: {backend!r} supports {TILE_SIZE}, got {tile_size}")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"rasterize_mode: expected 'classic' or 'antialiased', got {rasterize_mode!r}")
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode: expected one of {RENDER_MODES}, got {render_mode!r}")
    _check(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmats,
        Ks,
        width,
        height,
        sh_degree,
        backgrounds,
        render_mode,
    )
    return rasterize(
        _stages(backend, means),
        means, quats, scales, opacities, colors, viewmats, Ks, int(width), int(height),
        near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, sh_degree=sh_degree,
        packed=packed, backgrounds=backgrounds, render_mode=render_mode, absgrad=absgrad,
        antialiased=rasterize_mode == "antialiased",
    )  # fmt: skip


def _check_distributed(packed: bool, absgrad: bool) -> None:
    """Refuses what gsplat 1.5.3 does wrong between processes: packed rows keep the images of their origin."""
    version = gsplat_backend.TESTED_VERSION
    for name, on in (("packed", packed), ("absgrad", absgrad)):
        if on:
            raise NotImplementedError(f"{name}: gsplat {version} has it not with distributed")


def _stages(backend: str, means: Tensor) -> Stages:
    if backend == "reference":
        from rasterizer.reference import ReferenceStages

        return ReferenceStages()
    if backend != "cpu":
        raise BackendError(f"backend: expected auto, {', '.join(BACKENDS)}; got {backend!r}")
    if means.device.type != "cpu" or means.dtype != torch.float32:
        raise TypeError(
            f"means: backend 'cpu' takes float32 CPU tensors, got {means.dtype} on {means.device}"
        )
    from rasterizer.cpu import CpuStages

    return CpuStages()


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Coefficients,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    render_mode: str,
) -> None:
    if means.dim() != 2:
        raise NotImplementedError(f"means: expected [N, 3] (no batch dimensions), got {list(means.shape)}")
    if not means.is_floating_point():
        raise TypeError(f"means: expected floating-point numbers, got {means.dtype}")
    n, c = means.shape[0], viewmats.shape[0] if viewmats.dim() else 0
    expected = {
        "means": (means, (n, 3)),
        "quats": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (c, 4, 4)),
        "Ks": (Ks, (c, 3, 3)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: expected {list(shape)} (N={n}, C={c}), got {list(tensor.shape)}")
    if c < 1:
        raise ValueError("viewmats: expected at least one camera, got none")
    for name, size in (("width", width), ("height", height)):
        if not hasattr(size, "__index__"):
            raise TypeError(f"{name}: expected a whole number of pixels, got {size!r}")
    if width < 1 or height < 1:
        raise ValueError(f"width, height: expected at least 1x1 pixels, got {width}x{height}")
    parts = colors if isinstance(colors, tuple) else (colors,)
    if sh_degree is None:
        colors = parts[0]
        shapes = f"[N={n}, D] or [C={c}, N={n}, D]"
        fits = tuple(colors.shape[:-1]) in ((n,), (c, n)) and colors.dim() >= 2 and colors.shape[-1] >= 1
    else:
        if not 0 <= sh_degree <= MAX_SH_DEGREE:
            raise ValueError(f"sh_degree: expected 0 to {MAX_SH_DEGREE}, got {sh_degree}")
        k = (sh_degree + 1) ** 2
        shapes = f"[N={n}, K, 3] or [C={c}, N={n}, K, 3] with K >= {k} for sh_degree {sh_degree}"
        fits = all(part.dim() in (3, 4) and part.shape[-1] == 3 for part in parts)
        fits = fits and sum(part.shape[-2] for part in parts) >= k
        fits = fits and all(tuple(part.shape[:-2]) in ((n,), (c, n)) for part in parts)
        fits = fits and (len(parts) == 1 or parts[0].shape[-2] == 1)
    if not fits:
        raise ValueError(f"colors: expected {shapes}, got {' and '.join(str(list(p.shape)) for p in parts)}")
    channels = 3 if sh_degree is not None else parts[0].shape[-1]
    if (
        backgrounds is not None
        and render_mode not in ("D", "ED")
        and tuple(backgrounds.shape) != (c, channels)
    ):
        raise ValueError(f"backgrounds: expected [C={c}, {channels}], got {list(backgrounds.shape)}")
    tensors = {
        "quats": quats,
        "scales": scales,
        "opacities": opacities,
        **dict(zip(("colors", "colors[1]"), parts, strict=False)),
        "viewmats": viewmats,
        "Ks": Ks,
    }
    if backgrounds is not None:
        tensors["backgrounds"] = backgrounds
    for name, tensor in tensors.items():
        if tensor.dtype != means.dtype or tensor.device != means.device:
            raise TypeError(
                f"{name}: expected {means.dtype} on {means.device} like means, "
                f"got {tensor.dtype} on {tensor.device}"
            )
    if means.device.type == "cpu":  # on a GPU reading these values would wait for it
        _check_cameras(viewmats, Ks, backgrounds)


def _check_cameras(viewmats: Tensor, Ks: Tensor, backgrounds: Tensor | None) -> None:
    """Refuses cameras through which nothing can be seen; a Gaussian of such numbers is left out instead.

    On plain numbers: a dozen tensor operations on so few of them would cost more than projecting 10,000
    Gaussians.
    """
    for name, tensor in {"viewmats": viewmats, "Ks": Ks, "backgrounds": backgrounds}.items():
        for value in [] if tensor is None else tensor.detach().flatten().tolist():
            if not math.isfinite(value):
                raise ValueError(f"{name}: expected finite numbers, got {value}")
    for K in Ks.detach().tolist():
        if K[0][1] != 0:
            raise NotImplementedError("Ks: skew (Ks[:, 0, 1]) must be 0")
        if K[0][0] == 0 or K[1][1] == 0:
            raise ValueError("Ks: expected focal lengths (Ks[:, 0, 0] and Ks[:, 1, 1]) other than 0")
    for viewmat in viewmats.detach().tolist():
        a, b, c = viewmat[0][:3], viewmat[1][:3], viewmat[2][:3]
        if viewmat[3] == [0.0, 0.0, 0.0, 1.0]:
            cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
            volume = abs(sum(x * y for x, y in zip(cross, c, strict=True)))
            singular = volume <= 1e-12 * math.hypot(*a) * math.hypot(*b) * math.hypot(*c)  # double rounding
        else:
            singular = bool(torch.linalg.det(torch.tensor(viewmat)) == 0)
        if singular:
            raise ValueError("viewmats: expected invertible world-to-camera matrices, got a singular one")
