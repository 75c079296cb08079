"""A folder of scenes whose trainings are pretended, which takes no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fleet import running
from fleet.many import main

FAKE = Path(__file__).with_name("fake_train.py")


class Scenes:
    """Scenes in a folder, and what their trainings were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, fate: str = "") -> Path:
        scene = self.folder / name
        (scene / "images").mkdir(parents=True)
        (scene / "images" / "a.jpg").write_bytes(b"photograph")
        (scene / ".fate").write_text(fate)
        return scene

    def told(self) -> list[dict[str, Any]]:
        """Of every training that was started, in order."""
        path = self.folder / "told"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    """An empty folder of scenes."""
    (tmp_path / "all scenes").mkdir()
    return Scenes(tmp_path / "all scenes")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are pretended."""
    monkeypatch.setattr(running, "train_command", lambda words: [sys.executable, "-S", str(FAKE), *words])
    monkeypatch.setattr(running, "visible_gpus", lambda: [])
    monkeypatch.setattr(
        "fleet.folder.latest_checkpoint", lambda folder: next(iter(folder.glob("iteration_*.pt")), None)
    )


def run(scenes: Scenes, output: Path, *more: str) -> int:
    return main([str(scenes.folder), "-o", str(output), "--pause", "0", "--quiet", *more])


def table(output: Path) -> dict[str, Any]:
    return json.loads((output / "fleet.json").read_text())["scenes"]
