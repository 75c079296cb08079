"""When things are due, which device a backend needs, and that a seed decides everything."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from engine import device_for, is_due, seed_everything


def test_something_is_due_when_named_or_at_its_interval_or_last():
    due = [i for i in range(1, 11) if is_due(i, at=(3,), every=4, last=10)]
    assert due == [3, 4, 8, 10]
    assert not any(is_due(i) for i in range(1, 11))  # every = 0 is never, not always


def test_the_backend_decides_the_device():
    assert device_for("cpu").type == device_for("reference").type == "cpu"
    assert device_for("gsplat").type == "cuda"
    with pytest.raises(ValueError, match="resolve"):
        device_for("auto")


def test_a_seed_decides_every_generator():
    def draw(seed):
        generator = seed_everything(seed)
        return (
            random.random(),
            np.random.rand(),
            torch.rand(()).item(),
            torch.rand((), generator=generator).item(),
        )

    first = draw(2**40 + 1)  # larger than numpy takes
    assert draw(2**40 + 1) == first
    assert all(a != b for a, b in zip(draw(2), first, strict=True))
