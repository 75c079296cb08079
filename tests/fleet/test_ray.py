"""Ray, mostly pretended: what is asked of it, and what happens where a task of its is lost.

The real package, where it is installed, trains on this machine. Not tested here: a cluster of several.
"""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from errors import UserError
from tests.fleet.conftest import run, table


class FakeRay:
    """Runs a task when it is waited for; some are lost."""

    def __init__(self, lost: dict[str, int], cpus: float = 2.0) -> None:
        self.lost, self.cpus = lost, cpus
        self.numbers = itertools.count()
        self.tasks: dict[int, tuple[Any, tuple[Any, ...]]] = {}
        self.results: dict[int, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.most = 0

    def init(self, **options: Any) -> None:
        self.options = options

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cpus}

    def remote(self, **wishes: Any) -> Any:
        self.asked.append(wishes)

        def wrap(task: Any) -> Any:
            def submit(*words: Any) -> int:
                number = next(self.numbers)
                self.tasks[number] = (task, words)
                self.most = max(self.most, len(self.tasks) - len(self.results))
                return number

            return SimpleNamespace(remote=submit)

        return wrap

    def wait(self, numbers: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        assert num_returns == 1 and timeout > 0
        task, words = self.tasks[numbers[0]]
        name = words[0].name
        if self.lost.get(name, 0):
            self.lost[name] -= 1
            self.results[numbers[0]] = RuntimeError("the node has died\nsomewhere")
        else:
            self.results[numbers[0]] = task(*words)
        return numbers[:1], numbers[1:]

    def get(self, number: int) -> Any:
        result = self.results[number]
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self, number: int) -> None:
        raise AssertionError("nothing is left to cancel")


def test_scenes_go_to_ray_one_task_each(scenes, pretended, tmp_path, monkeypatch, capfd):
    for name, fate in (("a", ""), ("b", "3 ok"), ("c", "2"), ("d", ""), ("e", "")):
        scenes.add(name, fate)
    ray = FakeRay({"a": 1, "d": 9}, cpus=7.0)
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    assert run(scenes, tmp_path / "out", "--launcher", "ray", "--threads", "3") == 1
    assert ray.asked == [{"num_cpus": 3, "num_gpus": 0, "max_retries": 0}]
    assert ray.most == 2, "seven cores have room for two trainings of three threads"
    assert "PYTHONPATH" in ray.options["runtime_env"]["env_vars"]
    found = {name: (entry["status"], entry["attempts"]) for name, entry in table(tmp_path / "out").items()}
    assert found == {
        "a": ("done", 1),
        "b": ("done", 2),
        "c": ("failed", 1),
        "d": ("failed", 0),
        "e": ("done", 1),
    }
    assert "d: failed: its Ray task was lost: the node has died somewhere" in capfd.readouterr().out


def test_without_ray_it_says_so(scenes, pretended, tmp_path, monkeypatch):
    scenes.add("a")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="the package ray is not installed: pip install ray"):
        run(scenes, tmp_path / "out", "--launcher", "ray")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="the package ray is not installed (pip install ray)"
)
def test_the_real_package_trains_and_says_what_has_failed(small_scene, tmp_path):
    scenes = tmp_path / "scenes"
    for name in ("attic", "bare", "cellar"):
        (scenes / name).mkdir(parents=True)
        for part in ("images", "sparse"):
            if name != "bare" or part == "images":
                (scenes / name / part).symlink_to(small_scene / part)
    (scenes / "bare" / "images").unlink()
    (scenes / "bare" / "images").mkdir()
    (scenes / "bare" / "images" / "only one.png").symlink_to(small_scene / "images" / "view_000.png")
    words = [sys.executable, "-m", "fleet.many", str(scenes), "-o", str(tmp_path / "out"), "--jobs", "2"]
    words += ["--launcher", "ray", "--train=--config quick --init sfm --iterations 30"]
    ended = subprocess.run(
        words, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1, ended.stderr
    assert "2 scenes done; 1 failed" in ended.stdout and "bare: failed: " in ended.stdout, ended.stdout
    assert {name: entry["status"] for name, entry in table(tmp_path / "out").items()} == {
        "attic": "done",
        "bare": "failed",
        "cellar": "done",
    }
