"""One thread for networks: torch divides sums among its threads, and their bits would depend on how many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def threads_kept() -> Iterator[int]:
    """Gives torch's number of threads, and sets it again at the end, whatever was set within."""
    threads = torch.get_num_threads()
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch within."""
    with threads_kept():
        torch.set_num_threads(1)
        yield
