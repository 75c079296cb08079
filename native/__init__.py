"""The C++ kernels of every room: compiled on first use, cached, called through ctypes.

The kernels know neither Python nor torch: they take plain arrays (src/api.h). This room finds a
compiler, builds one shared library from src/*.cpp, keeps it in the user's cache under a hash of the
sources, the flags, the compiler and the processor, and hands out typed functions. Nothing is
compiled or loaded at import.
"""

from __future__ import annotations

from native.build import NativeBuildError, build_library, cache_folder, find_compiler
from native.kernels import (
    adam_step,
    call,
    get_threads,
    library,
    ordered_sum,
    set_threads,
    simd_name,
)
from native.memory import empty

__all__ = [
    "NativeBuildError",
    "adam_step",
    "build_library",
    "cache_folder",
    "call",
    "empty",
    "find_compiler",
    "get_threads",
    "library",
    "ordered_sum",
    "set_threads",
    "simd_name",
]
