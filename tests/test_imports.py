"""The rooms import downwards only: every arrow between them is one of those listed here.

Read from the source by AST, so that imports within functions and under TYPE_CHECKING count too. It does
not see `importlib.import_module`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "memory_limit": set(),
    "begin": {"memory_limit"},
    "atomic": set(),
    "versions": set(),
    "progress": set(),
    "native": set(),
    "scene": set(),
    "photos": {"scene"},
    "rasterizer": {"native"},
    "losses": {"depth_priors", "native", "rasterizer", "scene"},
    "depth_priors": {"native", "scene"},
    "gaussian_model": {"native", "rasterizer", "scene"},
    "evaluation": {"losses", "rasterizer", "scene"},
    "engine": {"begin", "gaussian_model", "scene"},
    "replicas": {"gaussian_model"},
    "configs": {"depth_priors", "gaussian_model", "losses", "rasterizer", "scene"},
    "reporting": {"configs", "evaluation", "scene"},
    "sharding": {"configs", "engine", "gaussian_model", "rasterizer", "replicas", "scene"},
    "learning": {
        "configs",
        "depth_priors",
        "engine",
        "gaussian_model",
        "losses",
        "replicas",
        "scene",
        "sharding",
    },
    "showing": {"configs", "depth_priors", "engine", "evaluation", "gaussian_model", "reporting", "scene"},
    "exporting": {"begin", "configs", "engine", "gaussian_model", "native", "rasterizer", "scene"},
    "viewer": {"begin", "configs", "engine", "evaluation", "gaussian_model", "native", "rasterizer", "scene"},
}
# These may import everything, and nobody imports them.
COMMANDS = {"train", "render", "benchmarks", "fleet", "stress"}
OURS = {*ARROWS, *COMMANDS, "scripts", "tests"}


def imported_rooms(source: str) -> dict[str, int]:
    """Returns the rooms that a module imports absolutely, each with the line that does."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            room = name.partition(".")[0]
            if room in OURS:
                found.setdefault(room, node.lineno)
    return found


def forbidden(room: str, source: str) -> dict[str, int]:
    """Returns the rooms that `room` must not import and does; it may itself and what all may."""
    allowed = ARROWS[room] | {"errors", "atomic", "versions", "progress", room}
    return {name: line for name, line in imported_rooms(source).items() if name not in allowed}


def files_of(room: str) -> list[Path]:
    single = ROOT / f"{room}.py"
    return [single] if single.is_file() else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", [room for room in ARROWS if files_of(room)])
def test_a_room_imports_only_the_rooms_below_it(room):
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files_of(room)
        for name, line in forbidden(room, path.read_text("utf-8")).items()
    ]
    assert not wrong, "\n".join(wrong)


def test_every_folder_with_modules_is_a_known_room():
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders <= OURS


def test_the_arrows_have_no_cycle():
    remaining = {room: set(below) for room, below in ARROWS.items()}
    while remaining:
        lowest = {room for room, below in remaining.items() if not below & set(remaining)}
        assert lowest, f"cycle among {sorted(remaining)}"
        remaining = {room: below for room, below in remaining.items() if room not in lowest}


def test_a_wrong_arrow_is_found_wherever_it_hides():
    hidden = "def f():\n    from configs.schema import Config\n"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import engine.tracker\n"
    assert forbidden("scene", hidden) == {"configs": 2}
    assert forbidden("scene", typed) == {"engine": 3}
    assert (
        forbidden("scene", "import errors, torch\nfrom scene.camera import Camera\nfrom . import x\n") == {}
    )


@pytest.mark.parametrize("first", ["scene", "photos.reconstruct", "fleet"])
def test_a_room_that_is_imported_first_leaves_opencv_its_own_png(first: str, tmp_path: Path) -> None:
    """pycolmap's zlib serves OpenCV too where pycolmap comes first: then writing a PNG ends a process."""
    program = f"import {first}, cv2, numpy; cv2.imwrite('a.png', numpy.zeros((60, 80, 3), 'u1'))"
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "a.png").is_file(), done.stderr
