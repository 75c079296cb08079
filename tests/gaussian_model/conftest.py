"""Fixtures of this room's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

import native


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads of torch and of the compiled kernels, and puts it back at the end."""
    before = torch.get_num_threads()
    yield native.set_threads
    native.set_threads(before)
