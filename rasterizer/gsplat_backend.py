"""The CUDA backend: gsplat 1.5.3, imported only when it is used.

Differences of convention between gsplat and our two backends, all outside the range of normal use:
- gsplat cuts a splat of opacity above 1 at 3.33 sigma (by whole tiles); ours follow it to alpha 1/255.
- gsplat skips a pixel where rounding makes the exponent negative (extremely thin splats); ours take it as 0.
- gsplat takes NaN and Inf as they come; ours cull such Gaussians.
- gsplat's meta has isect_ids, flatten_ids, isect_offsets and tiles_per_gauss; ours has no global lists.
- gsplat is differentiable twice nowhere and deterministic only up to the order of atomic additions.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import torch
from torch import Tensor

from errors import UserError

TESTED_VERSION = "1.5.3"


class BackendError(UserError):
    """A rasterizer backend was asked for that cannot run here."""


def why_unavailable() -> str | None:
    """Says why gsplat cannot run here, or None where it can (its CUDA code may still have to compile)."""
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed: `pip install gsplat`"
    if not torch.cuda.is_available():
        build = torch.version.cuda
        if build is None:
            return f"this torch ({torch.__version__}) was built without CUDA: install a CUDA build of torch"
        found = f"torch {torch.__version__} for CUDA {build}"
        return f"torch finds no NVIDIA GPU ({found}): check `nvidia-smi` and the driver"
    return None


def rasterization(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Passes the call on to `gsplat.rasterization` unchanged.

    Raises:
        BackendError: gsplat or CUDA is missing, or gsplat has no compiled CUDA code (gsplat 1.5.3 imports
            silently without it and then fails with an unrelated AttributeError), or cannot compile it.
    """
    reason = why_unavailable()
    if reason is not None:
        raise BackendError(f"backend gsplat: {reason}; or use --backend cpu")
    import gsplat

    try:
        from gsplat.cuda import _backend  # compiles gsplat's CUDA code where no wheel brought it
    except Exception as error:  # whatever torch's extension builder raises
        raise BackendError(
            f"backend gsplat: gsplat could not compile its CUDA code ({type(error).__name__}: {error}): "
            "install nvcc matching torch's CUDA, or a prebuilt gsplat wheel; or use --backend cpu"
        ) from error

    if _backend._C is None:
        version = importlib.metadata.version("gsplat")
        raise BackendError(
            f"backend gsplat: gsplat {version} found no CUDA toolkit to compile its kernels with: install "
            "nvcc matching torch's CUDA, or a prebuilt gsplat wheel; or use --backend cpu"
        )
    return gsplat.rasterization(*args, **kwargs)
