"""A training gives the same bits whether or not somebody looks at it, whatever they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import learning
import train
from configs import parse_command_line
from depth_priors import learn
from gaussian_model import Gaussians
from native import cache_folder
from scene import load_scene
from tests.viewer.fake_browser import PATIENCE_S, FakeBrowser
from viewer import training
from viewer.board import Look
from viewer.frame import Pose
from viewer.painter import Style
from viewer.panel import SHOWN
from viewer.training import Viewer, open_viewer

OPTIONS = [
    *("--eval", "--config", "quick", "--iterations", "40", "--init", "sfm", "--quiet"),
    *("--densify.start", "5", "--densify.every", "6", "--densify.stop", "35"),
    *("--optim.sh_degree_interval", "10", "--model.background", "random"),
    *("--regularise.dropout", "0.2", "--pyramid.factor", "2", "--pyramid.until", "20"),
]
STRATEGIES = {
    "default": ("--densify.max_gaussians", "3000", "--densify.reset_every", "18"),
    "mcmc": ("--densify.strategy", "mcmc", "--densify.mcmc.cap_max", "1500"),
}
Watch = Callable[[int, Gaussians], None]


def _run(scene_folder: Path, strategy: str, watch: Watch) -> tuple[dict[str, torch.Tensor], set[int]]:
    """Everything that a training ends with, and the numbers of Gaussians on the way."""
    argv = ["-s", str(scene_folder), "-m", str(scene_folder / "unused"), *OPTIONS, *STRATEGIES[strategy]]
    parsed = parse_command_line(argv)
    scene = load_scene(parsed.config.source_path, parsed.config.scene)
    config = parsed.resolve(len(scene.train), "cpu")
    knowledge = learn(
        scene, config.depth, depth_loss=False, starts=True, cache_folder=cache_folder(), pseudo=None,
        quiet=True,
    )  # fmt: skip
    device = torch.device("cpu")
    state = train.start(config, scene, knowledge.points, device)
    lessons = learning.Lessons.of(config, knowledge, [], device)
    sizes = set()
    for iteration in range(1, config.iterations + 1):
        learning.learn_once(config, scene, state, lessons, iteration, "cpu")
        watch(iteration, state.gaussians)
        sizes.add(len(state.gaussians))
    result = {key: value.detach().clone() for key, value in state.gaussians.params.items()}
    for index, moments in enumerate(state.optimizer.state.values()):
        result |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
    result["random"] = state.generator.get_state()
    return result, sizes


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_a_training_that_is_watched_ends_with_the_same_bits(small_scene, monkeypatch, strategy):
    alone, sizes = _run(small_scene, strategy, lambda iteration, gaussians: None)
    assert len(sizes) > 2  # Gaussians come and go

    monkeypatch.setattr(training, "SHARE", 1.0)  # as often as it can
    scene = load_scene(small_scene, parse_command_line(["-s", str(small_scene), *OPTIONS]).config.scene)
    opened = open_viewer(
        True, scene, host="localhost", port=18080, style=Style(False, "cpu"), background=torch.zeros(3),
        iterations=40, stop=SimpleNamespace(requested=False),
    )  # fmt: skip
    with opened as viewer:
        assert isinstance(viewer, Viewer)
        browser = FakeBrowser(viewer._session.page.port)
        browser.wait(lambda: viewer._board.watched)
        browser.set("refresh every", 1)
        browser.set("compare", True)
        browser.set("", "next")

        modes = list(SHOWN)

        def looks() -> list[Look]:
            return list(viewer._board.looks.values())

        def pictures() -> int:
            return sum(m["format"] == "jpeg" for m in browser.of("BackgroundImageMessage"))

        def shown(iteration: int, gaussians: Gaussians) -> int:
            viewer.step(iteration, gaussians)
            return pictures()

        def watch(iteration: int, gaussians: Gaussians) -> None:
            mode, known = modes[iteration // 4 % 3], pictures()
            if iteration % 4 == 0:
                browser.set("show", mode)
                angle = 0.1 * iteration
                place = np.array([4 * np.sin(angle), 0.0, -4 * np.cos(angle)])
                browser.move(Pose(place, np.array([1.0, 0.0, 0.0, 0.0]), 0.9, 1.5))
                browser.wait(lambda: any(np.array_equal(look.pose.position, place) for look in looks()))
                browser.wait(lambda: viewer._board.mode == SHOWN[mode])
            if iteration == 20:
                browser.set("Pause training", True)
                browser.wait(lambda: viewer._board.paused)
                viewer._session.courier.take(lambda: time.sleep(0.5))  # then it is resumed
                viewer._session.courier.take(lambda: viewer._board.tell(paused=False))
            viewer.step(iteration, gaussians, {"loss": 1.0})
            viewer._session.courier.rest(PATIENCE_S)  # so that the next iteration can be shown too
            if iteration % 4 == 0 and SHOWN[mode] != "splats":  # where a pause ends, it may be a step later
                browser.wait(lambda: shown(iteration, gaussians) > known)

        together, _ = _run(small_scene, strategy, watch)
        assert pictures() > 5 and browser.splats() > 100  # the case is a real one
        assert viewer._faults.count == 0 and viewer.paused_seconds > 0.1
        browser.close()

    assert together.keys() == alone.keys()
    for name, value in alone.items():
        assert torch.equal(value, together[name]), name
