"""Fixtures of all rooms. Tests run on any machine; what they need and cannot find is skipped by name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"  # real scenes; not part of the repository


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    """Every test starts with the same thread counts, whatever the one before it did."""
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _nothing_heard_twice() -> Iterator[None]:
    """A command that a test calls shows what is logged; the next test begins as a process does."""
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler).__module__ == "engine.words"]:
        root.removeHandler(handler)
        handler.least = logging.INFO  # type: ignore[attr-defined]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(False)


@pytest.fixture(scope="session")
def shared_scenes() -> Path:
    """The folder of real COLMAP scenes, or a skip that names it."""
    folder = SHARED / "scenes"
    if not folder.is_dir():
        pytest.skip("real scenes are not here (expected the folder shared/scenes beside the repository)")
    return folder


@pytest.fixture(scope="session")
def shared_bench() -> Path:
    """The folder of fixed rasterizer inputs, or a skip that names it."""
    folder = SHARED / "bench"
    if not folder.is_dir():
        pytest.skip("rasterizer inputs are not here (expected the folder shared/bench beside the repository)")
    return folder


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic COLMAP scene: 10 views of 80x60 pixels, 800 points."""
    from scene.synthetic import write_synthetic_scene

    folder = tmp_path_factory.mktemp("scenes") / "still life"  # with a space, as users have
    write_synthetic_scene(folder, n_views=10, width=80, height=60, points=800)
    return folder


@pytest.fixture(scope="session")
def stereo_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic COLMAP scene large enough for stereo: 10 views of 128x96 pixels."""
    from scene.synthetic import write_synthetic_scene

    folder = tmp_path_factory.mktemp("scenes") / "room"
    write_synthetic_scene(folder, n_views=10, width=128, height=96, points=800)
    return folder


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights of this machine are found."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("FEWSPLAT_WEIGHTS", raising=False)
