"""Large arrays that are needed again in every iteration, without asking the system for pages each time.

An array of some megabytes from malloc is fresh memory of the system: the kernel clears it, page by
page, when it is first written, which costs more than writing it. `empty` keeps the memory of arrays
that have died and hands it out again. Nothing here changes a result.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import threading
from typing import Any

import torch
from torch import Tensor

SMALLEST = 1 << 19  # bytes; below it malloc keeps its memory itself
IDLE = 256  # a block not asked for during so many requests is given back


class _Pool:
    """Dead blocks by size, each with the number of the request before which it died."""

    def __init__(self) -> None:
        self.free: dict[int, list[tuple[int, mmap.mmap]]] = {}
        self.requests = 0
        self._lock = threading.RLock()  # again by one thread: an array may die while it holds it

    def take(self, size: int) -> mmap.mmap:
        with self._lock:
            self.requests += 1
            if self.free.get(size):
                return self.free[size].pop()[1]
            for blocks in list(self.free.values()):  # N has changed: what lay idle will not be needed again
                blocks[:] = [block for block in blocks if self.requests - block[0] < IDLE]
        try:
            block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"out of memory: {size / 2**20:.0f} MiB more are needed ({error})") from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            block.madvise(mmap.MADV_HUGEPAGE)
        return block

    def give(self, size: int, block: mmap.mmap) -> None:
        with self._lock:
            self.free.setdefault(size, []).append((self.requests, block))


_pool = _Pool()


@functools.cache
def _block_type(size: int) -> Any:
    """A ctypes array whose death returns its memory; torch keeps it alive as long as a tensor needs it."""

    class Block(ctypes.c_char * size):  # type: ignore[misc]
        memory: mmap.mmap | None = None

        def __del__(self) -> None:
            if self.memory is not None and _pool is not None:  # both may be gone when the interpreter ends
                _pool.give(size, self.memory)

    return Block


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Like torch.empty on the CPU; large ones reuse the memory of arrays that have died.

    Raises:
        MemoryError: the system has no more.
    """
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < SMALLEST:
        return torch.empty(shape, dtype=dtype)
    step = 1 << (size.bit_length() - 4)  # an eighth of the power of two below
    rounded = -(-size // step) * step
    memory = _pool.take(rounded)
    block = _block_type(rounded).from_buffer(memory)
    block.memory = memory
    return torch.frombuffer(block, dtype=dtype, count=count).view(shape)
