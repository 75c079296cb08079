"""gsplat without a GPU: its own Python code, its exchange between processes included, on our CPU kernels.

What is replaced: gsplat's five CUDA operators (by our backend's stages, and by gsplat's torch twin for the
spherical harmonics), and three collectives that gloo has for tensors of one length only (by one that it has
for any). gsplat then believes that it talks by NCCL. Not modelled: CUDA, NCCL, memory, timing.
"""

from __future__ import annotations

import sys
import types
from typing import Any

import gsplat
import pytest
import torch
import torch.distributed as distributed
from gsplat import rendering
from gsplat.cuda import _torch_impl as twin
from torch import Tensor

from rasterizer import gsplat_backend
from rasterizer.cpu import CpuStages

_STAGES = CpuStages()


def install(patch: pytest.MonkeyPatch) -> None:
    """Puts it in gsplat's place."""
    compiled = types.ModuleType("gsplat.cuda._backend")
    compiled._C = object()  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "gsplat.cuda._backend", compiled)
    patch.setattr(gsplat.cuda, "_backend", compiled, raising=False)
    patch.setattr(gsplat_backend, "why_unavailable", lambda: None)
    operators = Operators()
    for name in (
        "fully_fused_projection",
        "spherical_harmonics",
        "isect_tiles",
        "isect_offset_encode",
        "rasterize_to_pixels",
    ):
        patch.setattr(rendering, name, getattr(operators, name))
    patch.setattr(distributed, "get_backend", lambda group=None: "nccl")
    patch.setattr(distributed, "all_to_all", _all_to_all)
    patch.setattr(distributed, "all_gather_into_tensor", _all_gather_into_tensor)
    patch.setattr(rendering, "all_gather_int32", _all_gather_int32)


def _all_to_all(out: list[Tensor], own: list[Tensor], group: Any = None) -> None:
    """NCCL's: a piece for each process, of any lengths."""
    got = torch.cat([part.reshape(-1) for part in out])
    given = torch.cat([part.reshape(-1) for part in own])
    distributed.all_to_all_single(
        got, given, [part.numel() for part in out], [part.numel() for part in own], group=group
    )
    for part, piece in zip(out, got.split([part.numel() for part in out]), strict=True):
        part.copy_(piece.view_as(part))


def _all_gather_into_tensor(out: Tensor, own: Tensor, group: Any = None) -> None:
    """NCCL's: of scalars too."""
    parts = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, own, group=group)
    out.copy_(torch.stack(parts).view_as(out))


def _all_gather_int32(world_size: int, value: int, device: torch.device) -> list[int]:
    """gsplat's, which refuses any tensor that is not CUDA's."""
    out = torch.empty(world_size, dtype=torch.int, device=device)
    _all_gather_into_tensor(out, torch.tensor(value, dtype=torch.int, device=device))
    return out.tolist()


class Operators:
    """gsplat's CUDA operators, as `rendering` calls them; not packed."""

    def __init__(self) -> None:
        self._rows: tuple[Tensor, Tensor] | None = None

    def fully_fused_projection(
        self,
        means: Tensor,
        covars: None,
        quats: Tensor,
        scales: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        eps2d: float,
        packed: bool,
        near_plane: float,
        far_plane: float,
        radius_clip: float,
        sparse_grad: bool,
        calc_compensations: bool,
        camera_model: str,
        opacities: Tensor,
    ) -> tuple[Tensor | None, ...]:
        assert covars is None and not packed and not sparse_grad and camera_model == "pinhole"
        found = _STAGES.project(
            means, quats, scales, opacities, viewmats, Ks, width=width, height=height, eps2d=eps2d,
            near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip,
            antialiased=calc_compensations,
        )  # fmt: skip
        return found.radii, found.means2d, found.depths, found.conics, found.compensations

    def spherical_harmonics(self, degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor) -> Tensor:
        return twin._spherical_harmonics(degree, dirs, coeffs) * masks[..., None]

    def isect_tiles(
        self,
        means2d: Tensor,
        radii: Tensor,
        depths: Tensor,
        tile_size: int,
        tile_width: int,
        tile_height: int,
        segmented: bool,
        packed: bool,
        n_images: int,
        image_ids: None,
        gaussian_ids: None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert not packed and image_ids is None and radii.shape[0] == n_images
        assert means2d.shape == radii.shape and depths.shape == radii.shape[:2]
        self._rows = radii, depths  # our stage sorts by itself, from these
        none = torch.zeros(0, dtype=torch.int64)
        return torch.zeros(depths.shape, dtype=torch.int32), none, none

    def isect_offset_encode(self, ids: Tensor, n_images: int, tile_width: int, tile_height: int) -> Tensor:
        return torch.zeros(n_images, tile_height, tile_width, dtype=torch.int32)

    def rasterize_to_pixels(
        self,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        width: int,
        height: int,
        tile_size: int,
        isect_offsets: Tensor,
        flatten_ids: Tensor,
        backgrounds: Tensor | None,
        packed: bool,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:
        assert self._rows is not None
        (radii, depths), self._rows = self._rows, None
        images, count = depths.shape
        assert isect_offsets.shape[0] == images and conics.shape == (images, count, 3)
        return _STAGES.composite(
            means2d.flatten(0, 1), conics.flatten(0, 1), colors.flatten(0, 1), opacities.flatten(0, 1),
            depths.flatten(0, 1), radii.flatten(0, 1), [count] * images,
            width=width, height=height, backgrounds=backgrounds, absgrad=absgrad,
        )  # fmt: skip
