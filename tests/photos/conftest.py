"""Photographs of the synthetic scene, whose poses are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene.synthetic import write_synthetic_scene


@pytest.fixture(scope="session")
def true_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 views of 320x240 pixels with their true model: large enough for features."""
    folder = tmp_path_factory.mktemp("truth") / "room"
    write_synthetic_scene(folder, n_views=10, width=320, height=240, points=400)
    return folder
