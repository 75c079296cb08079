"""The memory that a run has needed so far."""

from __future__ import annotations

import sys

import torch


def peak_memory_gib() -> float:
    """Returns the process's largest resident memory so far in GiB (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # macOS counts bytes, Linux KiB


def peak_gpu_memory_gib() -> float | None:
    """Returns the largest GPU memory that torch held so far in GiB; None if no GPU was used."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else None
