"""The page in a real browser: it loads, shows what our rasterizer shows, and asks nobody else for anything.

Chromium without a screen or a GPU (its software renderer takes seconds a frame on a busy machine, so that
everything is waited for, nothing timed).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evaluation import psnr
from gaussian_model import Gaussians, ModelConfig
from scene import SceneConfig, load_scene
from tests.viewer.loop import Loop, open_free
from viewer.board import Look, Mode
from viewer.faults import Faults
from viewer.finished import Exhibition, find
from viewer.overview import corners
from viewer.painter import Style
from viewer.session import Session

pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")
pytestmark = pytest.mark.slow

PATIENCE_S = 120.0
WIDTH, HEIGHT = 1200, 640
PICTURE = np.s_[
    200:, :840
]  # without the controls (right), and the browser's word on its slow renderer (top left)
FLAGS = ["--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# viser's splats have two-dimensional vertices, of which three.js cannot take the bounding sphere. Harmless.
KNOWN = "THREE.BufferGeometry.computeBoundingSphere(): Computed radius is NaN"

Pixels = NDArray[np.uint8]


def _chromium() -> str | None:
    """Chromium's place; CHROMIUM names another one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class Visit:
    """A page that is open in the browser.

    Args:
        page: of the browser.
        session: what it looks at.
        faults: that session's.
        serve: called while one waits.
    """

    def __init__(
        self, page: Any, session: Session, faults: Faults, serve: Callable[[], Any] = lambda: None
    ) -> None:
        self.page, self.session, self.board = page, session, session.board
        self._faults, self._serve, self._port = faults, serve, session.page.port
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on(
            "console", lambda message: self.errors.append(message.text) if message.type == "error" else None
        )
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.goto(f"http://localhost:{self._port}")
        self.wait(lambda: self.board.looks)

    def wait(self, what: Callable[[], Any]) -> Any:
        """Waits until something is so."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            self._serve()
            if found := what():
                return found
            self.page.wait_for_timeout(20)
        raise AssertionError(f"waited {PATIENCE_S} s in vain; the page's errors: {self.errors}")

    def look(self) -> Look:
        """Where the browser's camera is."""
        return next(iter(self.board.looks.values()))

    def screenshot(self) -> Pixels:
        """The picture [H, W, 3] without the controls, once it no longer changes."""
        last, since = self._shoot(), time.monotonic()

        def at_rest() -> bool:
            nonlocal last, since
            now = self._shoot()
            if not np.array_equal(now, last):
                last, since = now, time.monotonic()
            return time.monotonic() - since > 3.0

        self.wait(at_rest)
        return last

    def ours(self, gaussians: Gaussians, mode: Mode) -> Pixels:
        """What our rasterizer shows from there."""
        background = torch.tensor(self.board.background)
        return self.session._painter.picture(gaussians, self.look(), (WIDTH, HEIGHT), mode, background)[
            PICTURE
        ]

    def where(self, index: int) -> tuple[float, float] | None:
        """The pixel of the middle of a camera's photograph, as far as it is well within the picture."""
        session, pose = self.session, self.look().pose
        stand = session._frame.pose(session._stands[index].camera)
        size = session.page._stands.size
        x, y, z = pose.axes.T @ (corners(stand, size).mean(0) - pose.position)
        hidden = np.linalg.norm(stand.position - pose.position) < 6 * size
        if z < 0.7 or hidden:  # behind, or out of the way
            return None
        focal = HEIGHT / (2 * np.tan(pose.fov / 2))
        at = (WIDTH / 2 + focal * x / z, HEIGHT / 2 + focal * y / z)
        return at if 20 < at[0] < 840 and 200 < at[1] < HEIGHT - 20 else None

    def check(self) -> None:
        """Nothing went wrong, and nobody but our server was asked for anything."""
        assert [error for error in self.errors if not error.startswith(KNOWN)] == []
        port = self._port
        own = (
            f"http://localhost:{port}/",
            f"ws://localhost:{port}/",
            f"blob:http://localhost:{port}/",
            "data:",
        )
        assert [url for url in self.requests if not url.startswith(own)] == []
        assert self._faults.count == 0

    def choose(self, label: str, option: str) -> None:
        """Takes an option of the list of that label."""
        self._beside(label).locator("input").first.click()
        self.page.get_by_role("option", name=option).first.click()

    def tick(self, label: str) -> None:
        """Clicks the box of that label."""
        self._beside(label).locator("input[type=checkbox]").first.click()

    def slider(self, label: str) -> Any:
        """The thumb of the slider of that label."""
        return self._beside(label).get_by_role("slider").first

    def _beside(self, label: str) -> Any:
        """The smallest part of the page that has a label and a control."""
        return (
            self.page.locator("div", has=self.page.get_by_text(label, exact=True))
            .filter(has=self.page.locator("input"))
            .last
        )

    def _shoot(self) -> Pixels:
        png = np.frombuffer(self.page.screenshot(), np.uint8)
        pixels = cv2.imdecode(png, cv2.IMREAD_COLOR)
        assert pixels is not None
        return np.asarray(pixels[PICTURE][..., ::-1], np.uint8)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = _chromium()
    if path is None:
        pytest.skip("chromium is not here (expected on the PATH, or named by CHROMIUM)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def finished(browser: Any, finished_run: Path) -> Iterator[tuple[Visit, Exhibition]]:
    exhibition = Exhibition(find(finished_run), -1, "localhost", 18380, Style(False, "cpu"))
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    yield Visit(page, exhibition._session, exhibition._faults, exhibition.serve), exhibition
    page.close()
    exhibition.close()


def _apart(a: Pixels, b: Pixels) -> float:
    """PSNR in dB."""
    return psnr(torch.from_numpy(a.copy()) / 255.0, torch.from_numpy(b.copy()) / 255.0)


def test_the_page_shows_the_scene_as_our_rasterizer_does(finished):
    visit, exhibition = finished
    visit.tick("visible")  # no cameras in the picture
    shown, ours = visit.screenshot(), visit.ours(exhibition.gaussians, "rendered")
    # The browser blends in 8 bits, cuts splats at 2.8 sigma and alpha at 0.01, and clamps each one's colour:
    # 34 dB were measured here. A picture of something else (mirrored) is at 18 dB.
    assert _apart(shown, ours) > 28.0
    assert _apart(shown[:, ::-1], ours) < 22.0

    visit.choose("show", "rendered by the program")
    visit.wait(lambda: visit.board.mode == "rendered")
    # A JPEG of quality 90, enlarged a little: 50 dB were measured.
    assert _apart(visit.screenshot(), visit.ours(exhibition.gaussians, "rendered")) > 40.0

    visit.choose("show", "depth")
    visit.wait(lambda: visit.board.mode == "depth")
    shown, ours = visit.screenshot(), visit.ours(exhibition.gaussians, "depth")
    # The scale's ends are percentiles of the picture at its own size, and edges blur when it is enlarged.
    assert _apart(shown, ours) > 22.0
    assert _apart(shown[:, ::-1], ours) < 18.0
    visit.check()


def test_one_can_turn_the_scene_and_go_to_cameras_by_button_and_by_click(finished):
    visit, exhibition = finished
    board, frame = visit.board, exhibition.frame
    stands = visit.session._stands
    visit.screenshot()
    before = visit.look()
    visit.page.mouse.move(300, 400)
    visit.page.mouse.down()
    visit.page.mouse.move(420, 400, steps=5)
    visit.page.mouse.up()
    visit.wait(lambda: np.linalg.norm(visit.look().pose.position - before.pose.position) > 0.1)

    visit.page.get_by_role("button", name="next").click()
    visit.wait(lambda: board.chosen == 0)
    there = frame.pose(stands[0].camera)
    visit.wait(lambda: np.allclose(visit.look().pose.position, there.position, atol=1e-3))
    visit.wait(lambda: np.allclose(visit.look().pose.axes, there.axes, atol=1e-3))

    visit.page.get_by_role("button", name="previous").click()
    visit.wait(lambda: board.chosen == len(stands) - 1)

    behind = 1.6 * there.position + 0.5 * frame.up
    for client in visit.session.page._server.get_clients().values():
        client.camera.position, client.camera.look_at = behind, np.zeros(3)
    visit.wait(lambda: np.allclose(visit.look().pose.position, behind, atol=1e-3))
    visit.screenshot()
    places = [where for index in range(len(stands)) if (where := visit.where(index)) is not None]
    assert places, "no camera is in the picture: the case is not a real one"
    visit.page.mouse.click(*min(places, key=lambda at: abs(at[0] - 420) + abs(at[1] - 420)))
    visit.wait(lambda: board.chosen not in (None, len(stands) - 1))  # whichever is in front there
    there = frame.pose(stands[board.chosen].camera)
    visit.wait(lambda: np.allclose(visit.look().pose.position, there.position, atol=1e-3))
    visit.check()


@pytest.fixture
def training(browser: Any, small_scene: Path) -> Iterator[tuple[Visit, Loop]]:
    """A training that goes on beside the browser; its Gaussians are the scene's points and stay so."""
    scene = load_scene(small_scene, SceneConfig(eval=True))
    config = ModelConfig(sh_degree=0, init_opacity=0.9)
    gaussians = Gaussians.from_scene(scene, config, torch.Generator().manual_seed(0))
    with open_free(scene) as viewer:
        loop, page = Loop(viewer, gaussians), browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        yield Visit(page, viewer._session, viewer._faults), loop
        viewer._board.tell(paused=False)
        loop.end()
        page.close()


def test_a_training_is_shown_paused_resumed_and_looked_back_at(training):
    visit, loop = training
    board, page = visit.board, visit.page
    visit.wait(lambda: page.get_by_text("of 1,000").count())  # the status
    page.get_by_role("button", name="Pause training").click()
    visit.wait(lambda: board.paused)
    assert loop.stands()
    visit.tick("visible")
    # As for a finished model: 34 dB were measured.
    assert _apart(visit.screenshot(), visit.ours(loop.gaussians, "rendered")) > 28.0

    visit.choose("show", "depth")
    visit.wait(lambda: board.mode == "depth")
    assert _apart(visit.screenshot(), visit.ours(loop.gaussians, "depth")) > 22.0

    visit.choose("show", "splats")
    visit.wait(lambda: board.mode == "splats")
    page.get_by_role("button", name="Resume training").click()
    visit.wait(lambda: not board.paused)
    assert loop.goes_on()

    step = visit.slider("step")
    visit.wait(lambda: step.get_attribute("aria-valuemax") not in (None, "0", "1"))
    step.press("Home")
    visit.wait(lambda: board.step is not None and board.step < loop.iteration)
    visit.wait(lambda: page.get_by_text("looking back").count())
    assert loop.goes_on()
    visit.check()
