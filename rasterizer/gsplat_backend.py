"""The CUDA backend: gsplat 1.5.3, imported only when it is used.

Differences of convention between gsplat and our two backends, all outside the range of normal use:
- gsplat cuts a splat of opacity above 1 at 3.33 sigma (by whole tiles); ours follow it to alpha 1/255.
- gsplat skips a pixel where rounding makes the exponent negative (extremely thin splats); ours take it as 0.
- gsplat takes NaN and Inf as they come; ours cull such Gaussians.
- gsplat's meta has isect_ids, flatten_ids, isect_offsets and tiles_per_gauss; ours has no global lists.
- gsplat is differentiable twice nowhere and deterministic only up to the order of atomic additions.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from native import cache_folder

TESTED_VERSION = "1.5.3"
_COMPILED = "gsplat.cuda._backend"  # the module whose import compiles


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


def why_not_compiled() -> str | None:
    """Says why gsplat has no CUDA code here, or None where it has; compiles it where no wheel brought it.

    gsplat 1.5.3 without it imports silently, and its functions then fail with an unrelated AttributeError.
    Call it only where `why_unavailable` finds nothing: that takes no time, and this may take minutes, once.
    """
    needed = (
        f"install an nvcc for CUDA {torch.version.cuda}, or a prebuilt gsplat wheel for torch "
        f"{torch.__version__}"
    )
    try:
        with _alone():
            backend = importlib.import_module(_COMPILED)
    except Exception as error:  # whatever torch's extension builder raises
        said = " ".join(str(error).split())
        return f"gsplat could not compile its CUDA code ({type(error).__name__}: {said[-400:]}): {needed}"
    if backend._C is None:
        version = importlib.metadata.version("gsplat")
        return f"gsplat {version} found no CUDA toolkit to compile its kernels with: {needed}"
    return None


def rasterization(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Passes the call on to `gsplat.rasterization` unchanged.

    Raises:
        BackendError: gsplat or CUDA is missing, or gsplat's compiled CUDA code is.
    """
    if getattr(sys.modules.get(_COMPILED), "_C", None) is None:  # not yet known to be there
        reason = why_unavailable() or why_not_compiled()
        if reason is not None:
            raise BackendError(f"backend gsplat: {reason}; or use --backend cpu")
    import gsplat

    return gsplat.rasterization(*args, **kwargs)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """A block that one process of this machine enters at a time: two that compile at once harm each other."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # no such locks on this system or disk: go on without
            import fcntl

            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / "gsplat.lock", os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, descriptor)  # which lets go of the lock
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
