"""A finished run to look at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import train


@pytest.fixture(scope="session")
def finished_run(small_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a short training on `small_scene`, with Gaussians of 40, 100, 200 iterations."""
    output = tmp_path_factory.mktemp("runs") / "still life"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv",
            [
                *("train.py", "-s", str(small_scene), "-m", str(output), "--eval", "--config", "quick"),
                *("--iterations", "200", "--save_iterations", "40", "100", "--quiet", "--init", "sfm"),
            ],
        )  # fmt: skip
        train.main()
    return output
