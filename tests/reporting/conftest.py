"""One real run for all tests of the page: with a prior, confidence, and two evaluations."""

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


@pytest.fixture(scope="session")
def trained_run(stereo_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with a space and other letters in its path. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("runs") / "erster Lauf ü" / "out"
    folder.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder.parent / "torch"))  # no weights of this machine
        patch.delenv("FEWSPLAT_WEIGHTS", raising=False)
        run_training(patch, stereo_scene, folder)
    return folder
