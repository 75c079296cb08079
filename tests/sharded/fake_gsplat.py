"""gsplat without a GPU: its own Python code, its exchange between processes included, on our CPU kernels.

What is replaced: gsplat's five CUDA operators (by our backend's stages, and by gsplat's torch twin for the
spherical harmonics), and three collectives that gloo has for tensors of one length only (by one that it has
for any). gsplat then believes that it talks by NCCL. Tensors are the CPU's, or on tests.accelerator's GPU.
Not modelled: CUDA, NCCL, memory, timing.
"""

from __future__ import annotations

import os
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
from torch.utils._pytree import tree_flatten, tree_unflatten

from rasterizer import gsplat_backend
from rasterizer.cpu import CpuStages
from tests.accelerator import Accelerator

_STAGES = CpuStages()


def install(patch: pytest.MonkeyPatch, accelerator: Accelerator | None = None) -> None:
    """Puts it in gsplat's place; with a GPU that is not there, its tensors are on that."""
    compiled = types.ModuleType("gsplat.cuda._backend")
    compiled._C = object()  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "gsplat.cuda._backend", compiled)
    patch.setattr(gsplat.cuda, "_backend", compiled, raising=False)
    patch.setattr(gsplat_backend, "why_unavailable", lambda: None)
    operators: Any = Operators()
    if accelerator is not None:
        operators = _OnTheGpu(operators, accelerator)
        patch.setattr(distributed, "init_process_group", _by_gloo(distributed.init_process_group))
        patch.setattr(torch.cuda, "device_count", lambda: int(os.environ["LOCAL_WORLD_SIZE"]))
        patch.setattr(torch.cuda, "set_device", lambda number: None)
    else:
        patch.setattr(rendering, "all_gather_int32", _all_gather_int32)
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


def _by_gloo(init: Any) -> Any:
    def init_process_group(backend: str, **options: Any) -> None:
        assert backend == "nccl", "GPUs talk by NCCL"
        init("gloo", **options)

    return init_process_group


class _OnTheGpu:
    """The operators for tensors of a GPU that is not there: they get copies, and their results are on it."""

    def __init__(self, operators: Any, accelerator: Accelerator) -> None:
        self._operators, self._accelerator = operators, accelerator

    def __getattr__(self, name: str) -> Any:
        operator, accelerator = getattr(self._operators, name), self._accelerator

        def call(*args: Any, **kwargs: Any) -> Any:
            leaves, tree = tree_flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            tensors = [leaves[i] for i in places]
            assert all(tensor.is_cuda for tensor in tensors), f"{name} wants all its tensors on the GPU"

            def run(*own: Tensor) -> tuple[Tensor | None, ...]:
                given = list(leaves)
                for i, tensor in zip(places, own, strict=True):
                    given[i] = tensor
                one, more = tree_unflatten(given, tree)
                result = operator(*one, **more)
                return result if isinstance(result, tuple) else (result,)

            results = _Away.apply(accelerator, run, *tensors)
            return results if len(results) > 1 else results[0]

        return call


class _Away(torch.autograd.Function):
    """A function of CPU tensors, on copies of tensors of the accelerator."""

    @staticmethod
    def forward(ctx: Any, accelerator: Accelerator, run: Any, *tensors: Tensor) -> tuple[Any, ...]:
        with accelerator.left(), torch.enable_grad():
            ctx.leaves = [
                tensor.detach().clone().requires_grad_(tensor.is_floating_point()) for tensor in tensors
            ]
            ctx.results = run(*ctx.leaves)
        ctx.accelerator = accelerator
        ctx.set_materialize_grads(False)
        copies = tuple(None if result is None else result.detach().clone() for result in ctx.results)
        ctx.mark_non_differentiable(
            *(copy for copy in copies if copy is not None and not copy.is_floating_point())
        )
        return accelerator.mark(copies)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        used = [
            (result, grad)
            for result, grad in zip(ctx.results, grads, strict=True)
            if grad is not None and result is not None and result.requires_grad
        ]
        assert all(ctx.accelerator.has(grad) for _, grad in used), "gradients come from the GPU"
        wanted = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        with ctx.accelerator.left():
            results, given = zip(*used, strict=True)
            found = torch.autograd.grad(results, wanted, given, allow_unused=True)
        rest = iter(ctx.accelerator.mark(found))
        return None, None, *(next(rest) if leaf.requires_grad else None for leaf in ctx.leaves)


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
