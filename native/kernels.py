"""Loads the compiled library once per process and gives its functions their types."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from native.build import build_library

_P = c_void_p
_SIGNATURES: dict[str, tuple[list[type], type | None]] = {
    "fs_simd_name": ([], ctypes.c_char_p),
    "fs_set_threads": ([c_int], None),
    "fs_get_threads": ([], c_int),
    "fs_sum": ([c_int64, _P], c_double),
    "fs_adam_step": ([c_int64, _P, _P, _P, _P, c_double, c_double, c_double, c_double, c_int64], c_int),
    "fs_project_forward": (
        [c_int64, c_int64, *[_P] * 6, c_int, c_int, *[c_float] * 4, c_int, *[_P] * 5],
        c_int,
    ),
    "fs_project_backward": (
        [c_int64, c_int64, *[_P] * 5, c_int, c_int, *[c_float] * 3, *[_P] * 9],
        c_int,
    ),
    "fs_sh_forward": ([c_int64, c_int64, c_int, c_int, _P, _P, _P, c_int64, _P, c_int64, _P, _P], c_int),
    "fs_sh_backward": (
        [c_int64, c_int64, c_int, c_int64, c_int, _P, _P, _P, c_int64, _P, c_int64, *[_P] * 7],
        c_int,
    ),
    "fs_raster_forward": ([c_int64, c_int, *[_P] * 7, c_int, c_int, _P, _P], _P),
    "fs_raster_backward": ([*[_P] * 10], c_int),
    "fs_raster_counts": ([_P, _P, _P], None),
    "fs_raster_binning_ms": ([_P], c_double),
    "fs_raster_free": ([_P], None),
    "fs_image_loss_forward": ([c_int, c_int, *[_P] * 5], c_int),
    "fs_squared_error": ([c_int, c_int, *[_P] * 4], c_int),
    "fs_density_statistics": ([c_int64, _P, _P, c_float, c_float, _P, _P], c_int),
    "fs_stereo_sweep": (
        [c_int, c_int, _P, c_int, *[_P] * 4, c_int, c_float, c_float, c_int, _P],
        c_int,
    ),
    "fs_stereo_sgm": ([c_int, c_int, _P, c_int, _P, *[c_float] * 5, _P, _P], c_int),
    "fs_stereo_patchmatch": (
        [
            c_int,
            c_int,
            _P,
            _P,
            c_int,
            *[_P] * 6,
            *[c_float] * 3,
            c_int,
            c_float,
            c_float,
            c_int,
            c_float,
            c_int64,
            _P,
            _P,
        ],
        c_int,
    ),
    "fs_row_warp_forward": ([c_int, c_int, *[_P] * 4], c_int),
    "fs_row_warp_backward": ([c_int, c_int, *[_P] * 5], c_int),
    "fs_stereo_distinct": ([c_int, c_int, _P, _P, c_int, *[_P] * 4, *[c_float] * 3, _P, _P], c_int),
    "fs_stereo_agreement": ([c_int, c_int, _P, c_int, *[_P] * 4, c_float, c_float, _P, _P], c_int),
    "fs_image_loss_backward": ([c_int, c_int, *[_P] * 4, c_float, c_float, _P], c_int),
}


# The functions whose result says whether memory sufficed; the rasterizer's callers say more themselves.
_STATUS = {name for name, (_, result) in _SIGNATURES.items() if result is c_int}
_STATUS -= {"fs_get_threads", "fs_raster_backward"}


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels; builds them on the first call of the first run (about 10 s).

    Raises:
        native.NativeBuildError: no compiler, or it failed.
    """
    lib = ctypes.CDLL(str(build_library()))
    for name, (arguments, result) in _SIGNATURES.items():
        function = getattr(lib, name)
        function.argtypes = arguments
        function.restype = result
    lib.fs_set_threads(torch.get_num_threads())
    return lib


def call(name: str, *arguments: Any) -> Any:
    """Calls a kernel; tensors are passed as addresses and kept alive until it returns.

    Args:
        name: a function of the library.
        arguments: numbers, None (a null pointer), or dense CPU tensors of the types that the kernel takes.

    Raises:
        ValueError: a tensor is not dense or not on the CPU.
        MemoryError: the kernel ran out of memory.
    """
    values = [_address(a) if isinstance(a, Tensor) else a for a in arguments]
    result = getattr(library(), name)(*values)
    if result and name in _STATUS:
        raise MemoryError(f"{name.removeprefix('fs_')} ran out of memory")
    return result


def _address(tensor: Tensor) -> int:
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        raise ValueError(
            f"native kernels take dense CPU tensors, got {tensor.device} with strides {tensor.stride()}"
        )
    return tensor.data_ptr()


def set_threads(n: int) -> None:
    """Sets the number of threads of torch and of the kernels (n >= 1); results do not depend on it.

    Compiles nothing: a library that is loaded later starts with torch's number.
    """
    if n < 1:
        raise ValueError(f"threads: expected at least 1, got {n}")
    torch.set_num_threads(n)
    if library.cache_info().currsize:
        library().fs_set_threads(n)


def get_threads() -> int:
    """Number of threads that the kernels use."""
    return library().fs_get_threads()


def simd_name() -> str:
    """Which vector instructions the kernels were compiled for: avx512, avx2, neon or scalar."""
    return library().fs_simd_name().decode()


def ordered_sum(x: Tensor) -> float:
    """Sum of a float32 CPU tensor in double; the same bits for any number of threads."""
    x = x.detach().contiguous()
    if x.dtype != torch.float32:
        raise TypeError(f"ordered_sum takes float32, got {x.dtype}")
    return call("fs_sum", x.numel(), x)


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
) -> None:
    """One Adam update in place (Kingma and Ba, 2015, algorithm 1; eps outside the root, as torch's).

    Args:
        param: parameter, any shape, float32 on the CPU, dense; so are the next three.
        grad: its gradient.
        exp_avg: first moment.
        exp_avg_sq: second moment.
        lr: learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the root of the second moment.
        step: number of this update, from 1.
    """
    for name, tensor in (("param", param), ("grad", grad), ("exp_avg", exp_avg), ("exp_avg_sq", exp_avg_sq)):
        if tensor.dtype != torch.float32 or tensor.shape != param.shape:
            raise ValueError(
                f"{name}: expected float32 {tuple(param.shape)}, got {tensor.dtype} {tuple(tensor.shape)}"
            )
    call("fs_adam_step", param.numel(), param, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, step)
