"""Makes the pictures of README and docs; see scripts/docs_images."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.depth import measure_stereo
from depth_priors import MapCache, SceneStereo
from engine import run_command
from errors import UserError
from evaluation import colorize_depth, depth_limits, to_8bit
from gaussian_model import Gaussians, load_ply
from scene import Scene, SceneConfig, View, load_scene
from scene.synthetic import write_synthetic_scene
from scripts import demo_picture

ROOT = Path(__file__).resolve().parent.parent
VIEWS = "6"
STEPS = (1, 100, 400, 1000)
FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_S = 120.0

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Options:
    """Make the pictures of README and docs."""

    to: Path = ROOT / "docs" / "images"
    """Where the pictures go."""
    work: Path = ROOT / "output" / "docs"
    """Where scene and runs are kept; what is there is not made anew."""


def main() -> None:
    """Makes all of them."""
    options = tyro.cli(Options, prog="scripts/docs_images", use_underscores=True)
    options.to.mkdir(parents=True, exist_ok=True)
    scene, run = options.work / "still_life", options.work / "few"
    if not (scene / "sparse").is_dir():
        write_synthetic_scene(scene)
    steps = [str(step) for step in STEPS]
    _train(scene, run, "--n_views", VIEWS, "--iterations", steps[-1], "--save_iterations", *steps[:-1])
    _train(scene, options.work / "few_sfm", "--n_views", VIEWS, "--iterations", steps[-1], "--init", "sfm")
    _train(scene, options.work / "all_views", "--iterations", "2000")
    _python("render.py", "-m", str(run), "--skip_train", "--report", "--quiet")
    _python("render.py", "-m", str(options.work / "all_views"), "--skip_train", "--quiet")
    demo_picture.main(options.work / "all_views", options.to / "demo.jpg")
    loaded = load_scene(scene, SceneConfig(eval=True, n_views=int(VIEWS)), quiet=True)
    measure_stereo(scene, 3, True, os.cpu_count() or 1, options.to / "depth.jpg")
    _write(options.to / "how_stereo.jpg", how_stereo(loaded, run))
    _write(options.to / "how_training.jpg", how_training(loaded, run))
    _write(options.to / "how_gaussians.jpg", how_gaussians(loaded, run))
    _python("-m", "exporting", str(options.work / "all_views"), "--to", "html", "--quiet")
    photograph_pages(options.work, options.to)


def how_stereo(scene: Scene, run: Path) -> Picture:
    """A photograph, stereo's depth, how sure it is, and the Gaussians that training starts from."""
    stereo = SceneStereo(scene, MapCache(None), quiet=True)
    number = len(scene.train) // 2
    view, prior = scene.train[number], stereo.priors[number]
    assert prior is not None, "stereo finds something in the embedded scene"
    sure = prior.confidence > 0
    depth = torch.where(sure, prior.depth(), torch.zeros(()))
    grey = (prior.confidence.clamp(0, 1) * 255).round().byte()[..., None].expand(-1, -1, 3)
    first = load_ply(run / "input.ply")
    return np.hstack(
        [
            view.pixels.numpy(),
            colorize_depth(depth, sure.float(), limits=depth_limits(depth, sure.float())),
            grey.numpy(),
            _render(_as_points(first), view),
        ]
    )


def how_training(scene: Scene, run: Path) -> Picture:
    """A held-out view after some iterations, and its photograph."""
    view = _held_out(scene)
    pictures = [_render(_saved(run, step), view) for step in STEPS]
    return np.hstack([*pictures, view.pixels.numpy()])


def how_gaussians(scene: Scene, run: Path) -> Picture:
    """A held-out view, and the Gaussians that it is made of, smaller and opaque."""
    view = _held_out(scene)
    gaussians = _saved(run, STEPS[-1])
    whole = _render(gaussians, view)
    with torch.no_grad():
        gaussians.params["scales"].add_(math.log(0.4))
        gaussians.params["opacities"].clamp_(min=4.0)
    return np.hstack([whole, _render(gaussians, view)])


def photograph_pages(work: Path, to: Path) -> None:
    """Viewer, report, TensorBoard and an exported page, in a browser.

    Raises:
        UserError: there is no browser.
    """
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        raise UserError(f"no browser found ({', '.join(names)}): install Chromium, or name one by CHROMIUM")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=FLAGS)
        page = chromium.new_page(viewport={"width": 1280, "height": 720})
        page.goto((work / "few" / "report.html").resolve().as_uri())
        page.wait_for_timeout(2000)
        _shoot(page, to / "report.jpg")
        page.goto((work / "all_views" / "export" / "all_views.html").resolve().as_uri())
        _shoot_at_rest(page, to / "export.jpg")
        with _server(["-m", "viewer", str(work / "all_views")], "--port") as port:
            page.goto(f"http://localhost:{port}")
            page.wait_for_timeout(5_000)
            page.mouse.move(450, 400)
            for _ in range(2):  # back, so that cameras come into the picture
                page.mouse.wheel(0, 120)
                page.wait_for_timeout(500)
            _shoot_at_rest(page, to / "viewer.jpg")
        with _server(["-m", "tensorboard.main", "--logdir", "."], "--port", work) as port:
            page.goto(f"http://localhost:{port}/#scalars&tagFilter=psnr_test%7Cssim_test%7Ctotal%7Ccount")
            page.wait_for_timeout(15_000)
            _shoot(page, to / "tensorboard.jpg")
            page.set_viewport_size({"width": 1900, "height": 420})
            page.goto(f"http://localhost:{port}/#hparams")
            page.reload()
            page.wait_for_timeout(10_000)
            _shoot(page, to / "hparams.jpg")
        chromium.close()


def _train(scene: Path, run: Path, *options: str) -> None:
    if not (run / "summary.json").is_file():
        common = ["-s", str(scene), "-m", str(run), "--eval", "--config", "quick", "--overwrite"]
        _python("train.py", *common, *options)


def _python(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=ROOT, check=False)
    if done.returncode != 0:
        raise UserError(f"{' '.join(words)}: ended with exit code {done.returncode} (above)")


def _saved(run: Path, iteration: int) -> Gaussians:
    return load_ply(run / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply")


def _held_out(scene: Scene) -> View:
    return scene.test[len(scene.test) // 2]


def _as_points(gaussians: Gaussians) -> Gaussians:
    """Small opaque balls where the Gaussians are."""
    with torch.no_grad():
        gaussians.params["scales"].copy_(gaussians.params["scales"].median() + math.log(0.5))
        gaussians.params["opacities"].fill_(5.0)
    return gaussians


@torch.no_grad()
def _render(gaussians: Gaussians, view: View) -> Picture:
    background: Tensor = torch.zeros(3)
    picture: Picture = to_8bit(gaussians.render(view.camera, background=background).color[0]).numpy()
    return picture


def _write(path: Path, picture: Picture) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])


def _shoot(page: Any, path: Path) -> None:
    page.screenshot(path=str(path), type="jpeg", quality=85)


def _shoot_at_rest(page: Any, path: Path) -> None:
    """Once something is there and no longer changes (the browser's own renderer is slow)."""
    until, last, since = time.monotonic() + PATIENCE_S, b"", time.monotonic()
    page.wait_for_timeout(8_000)
    if (slow := page.get_by_text("Software WebGL rendering detected")).count():  # a browser's without a GPU
        slow.locator("xpath=ancestor::*[.//button][1]").locator("button").first.click()
    while time.monotonic() < until:
        now = page.screenshot()
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > 5.0:
            break
        page.wait_for_timeout(500)
    _shoot(page, path)


@contextlib.contextmanager
def _server(words: Sequence[str], port_option: str, folder: Path = ROOT) -> Iterator[int]:
    """A program of python's that serves a free port, until the end of the block."""
    port = free_port()
    command = [sys.executable, *words, port_option, str(port)]
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, stdout=nowhere, stderr=nowhere) as process:
        try:
            until = time.monotonic() + PATIENCE_S
            while not answers(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise UserError(f"{' '.join(map(str, words))}: does not open a page")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether a page is served at a port of this machine."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/", timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    run_command(main)
