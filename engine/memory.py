"""The memory that a run has needed so far."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch


def peak_memory_gib() -> float:
    """Returns the process's largest resident memory so far in GiB (0 where the system does not tell)."""
    with contextlib.suppress(
        OSError, ValueError, IndexError
    ):  # Linux; ru_maxrss would begin at the peak of who started us
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    try:
        import resource
    except ImportError:  # not a POSIX system
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # macOS counts bytes, Linux KiB


def peak_gpu_memory_gib() -> float | None:
    """Returns the largest GPU memory that torch held so far in GiB; None if no GPU was used."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else None
