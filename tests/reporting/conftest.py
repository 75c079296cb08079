"""One real run for all tests of the page: with a prior, confidence, and two evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reporting.running import run_training


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
