"""How the tests of the page train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import train

OPTIONS = (
    *("--eval", "--config", "quick", "--iterations", "20", "--checkpoint_every", "10", "--init", "sfm"),
    *("--depth_loss", "pearson", "--confidence", "mvs", "--densify.start", "2", "--densify.every", "4"),
    *("--pyramid.factor", "2", "--pyramid.until", "10", "--test_iterations", "10", "--log_every", "1"),
    *("--threads", "1", "--quiet"),
)


def run_training(patch: pytest.MonkeyPatch, scene: Path, output: Path, *options: str) -> None:
    words = ["train.py", "-s", str(scene), "-m", str(output), *OPTIONS]
    patch.setattr(sys, "argv", [*words, "--depth_cache", str(output.parent / "cache"), *options])
    train.main()
