"""One seed for a run, and the states of every generator for its checkpoints.

The loop draws from the one `torch.Generator` returned here. Python's, numpy's and torch's global
generators are seeded as well, for code that is not ours, and are saved and restored with it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch


def seed_everything(seed: int) -> torch.Generator:
    """Seeds python, numpy and torch (all devices) and returns a CPU generator with the same seed.

    Args:
        seed: 0 or greater; numpy, which takes 32 bits, gets its remainder.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def generator_states(generator: torch.Generator) -> dict[str, Any]:
    """Returns the states of all generators as tensors and primitives."""
    name, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    version, internal, gauss = random.getstate()
    return {
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss],
        "numpy": [name, torch.tensor(keys.astype(np.int64)), position, has_gauss, cached],
    }


def set_generator_states(states: dict[str, Any], generator: torch.Generator) -> None:
    """Puts every generator where `generator_states` found it.

    GPU generators are restored where there are as many GPUs as when they were saved, else left alone.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: if a state is missing or malformed.
    """
    generator.set_state(states["generator"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))


@contextlib.contextmanager
def generators_kept(generator: torch.Generator) -> Iterator[None]:
    """Whatever is drawn or seeded within, all generators are afterwards where they were."""
    states = generator_states(generator)
    try:
        yield
    finally:
        set_generator_states(states, generator)
