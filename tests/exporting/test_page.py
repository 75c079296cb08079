"""The page shows the scene in a browser without any network, and making it leaves nothing behind.

The browser is a headless Chromium that draws in software. What it draws is compared with our own rasterizer
coarsely: viser's renderer has its own cut-offs at two standard deviations and for tiny Gaussians.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading

import cv2
import numpy as np
import pytest
import torch

from exporting import Splats
from exporting.colours import mean_colours
from exporting.page import encode
from exporting.viewpoint import Viewpoint, best_camera, camera_viewpoint
from gaussian_model import Gaussians, ModelConfig
from gaussian_model.spherical_harmonics import rgb_to_sh
from scene import Camera, load_scene
from scene.config import SceneConfig
from scene.geometry import camera_at, look_along
from tests.exporting.browser import NAMES, find_chromium, open_browser
from tests.gaussian_model.models import random_gaussians

WIDTH, HEIGHT = 320, 240
BLACK = np.zeros(3, dtype=np.float32)
VIEW = Viewpoint(np.array([0.0, 0.0, -6.0]), np.zeros(3), np.array([0.0, -1.0, 0.0]), math.radians(50))
# three.js says this of the square that viser draws each Gaussian on, whose corners have no z
KNOWN = "computeBoundingSphere(): Computed radius is NaN"


@pytest.fixture(scope="module")
def page():
    """A browser's tab, or a skip that says what is missing."""
    pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")
    program = find_chromium()
    if program is None:
        pytest.skip(f"no browser to look at pages with ($CHROMIUM, or {', '.join(NAMES)} on the path)")
    with open_browser(program) as tab:
        yield tab


def colours_of(gaussians: Gaussians) -> np.ndarray:
    return mean_colours(gaussians, []).numpy()


def write(path, gaussians, view=VIEW, background=BLACK, title="a scene"):
    encoded = encode(
        Splats.of(gaussians),
        colours_of(gaussians),
        view,
        title=title,
        background=np.asarray(background, np.float32),
    )
    path.write_bytes(encoded.content)
    return path


def our_picture(gaussians: Gaussians, view: Viewpoint) -> np.ndarray:
    """What our rasterizer shows of the Gaussians' mean colours from a viewpoint: [H, W, 3] bytes."""
    focal = HEIGHT / 2 / math.tan(view.field_of_view / 2)
    K = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], dtype=torch.float32)
    like = Camera(torch.eye(4), K, WIDTH, HEIGHT)
    camera = camera_at(look_along(view.target - view.position, view.up), view.position, like)
    state = gaussians.state_dict()
    flat = Gaussians.from_tensors(
        {**state, "sh0": rgb_to_sh(mean_colours(gaussians, []))[:, None], "shN": state["shN"][:, :0]}
    )
    with torch.no_grad():
        colour = flat.render(camera, depth=None).color[0].clamp(0, 1)
    return (colour.numpy() * 255).round().astype(np.uint8)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two pictures at a tenth of their size."""
    size = (WIDTH // 10, HEIGHT // 10)
    x, y = (np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.float64).ravel() for p in (a, b))
    return float(np.corrcoef(x, y)[0, 1])


def unexpected(tab) -> list[str]:
    return [error for error in tab.errors if KNOWN not in error]


def discs(front: float, back: float) -> Gaussians:
    """A red disc and a blue one at these z, opaque and wide.

    They are not round, and turned, since viser does not draw what is exactly level or exactly round.
    """
    state = random_gaussians(2, degree=0).state_dict()
    state["means"] = torch.tensor([[0.0, 0.0, front], [0.0, 0.0, back]])
    state["quats"] = torch.tensor([[1.0, 0, 0, 0.4]] * 2)  # about z
    state["scales"] = torch.log(torch.tensor([[1.5, 1.0, 0.01]] * 2))
    state["opacities"] = torch.full((2,), 9.0)
    state["sh0"] = rgb_to_sh(torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))[:, None]
    return Gaussians.from_tensors(state)


@pytest.mark.slow
def test_a_page_shows_the_scene_as_we_draw_it_and_turns_under_mouse_and_finger(page, tmp_path, stereo_scene):
    scene = load_scene(stereo_scene, SceneConfig())
    gaussians = Gaussians.from_scene(scene, ModelConfig(sh_degree=0, init_opacity=0.9), torch.Generator())
    cameras = [view.camera for view in scene.train]
    splats = Splats.of(gaussians)
    view = camera_viewpoint(best_camera(cameras, splats), cameras, splats)
    page.open(write(tmp_path / "a page.html", gaussians, view, title="<Still> & life"), WIDTH, HEIGHT)
    seen, expected = page.settled_picture(), our_picture(gaussians, view)
    cv2.imwrite(str(tmp_path / "seen.png"), np.hstack([seen, expected])[:, :, ::-1])  # to be looked at
    # cut-offs at two standard deviations darken edges; a picture turned over is far from the same
    assert likeness(seen, expected) > 0.95
    assert likeness(seen[::-1], expected) < 0.8 and likeness(seen[:, ::-1], expected) < 0.8
    off = np.abs(seen.mean(axis=(0, 1)) - expected.mean(axis=(0, 1)))
    assert off.max() < 12, "colours are those of the Gaussians, but for the cut edges"
    assert page.evaluate("document.title") == "<Still> & life"

    page.drag((120, 120), (200, 120))
    turned = page.settled_picture()
    assert turned.std() > 5 and likeness(turned, seen) < 0.95

    page.open(tmp_path / "a page.html", WIDTH, HEIGHT, touch=True)
    again = page.settled_picture()
    assert likeness(again, seen) > 0.99
    page.swipe((120, 120), (200, 120))
    swiped = page.settled_picture()
    assert swiped.std() > 5 and likeness(swiped, again) < 0.95

    assert unexpected(page) == []
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data", "blob"}


@pytest.mark.slow
@pytest.mark.parametrize("front", [-1.0, 1.0])
def test_what_is_in_front_hides_what_is_behind_on_a_page_from_the_disk(page, tmp_path, front):
    """Depths are sorted by a worker, which a browser may refuse to a page that comes from no server."""
    page.open(write(tmp_path / "discs.html", discs(front, -front)), WIDTH, HEIGHT)
    middle = page.settled_picture()[HEIGHT // 2, WIDTH // 2].astype(int)
    near, far = (0, 2) if front < 0 else (2, 0)  # the eye is at z = -6: red, if that is in front
    assert middle[near] > 200 and middle[far] < 50, middle
    assert unexpected(page) == []


@pytest.mark.slow
def test_a_white_background_is_white_and_one_gaussian_is_enough(page, tmp_path):
    one = Gaussians.from_tensors({key: value[:1] for key, value in discs(0.0, 0.0).state_dict().items()})
    page.open(write(tmp_path / "one.html", one, background=(1.0, 1.0, 1.0)), WIDTH, HEIGHT)
    picture = page.settled_picture().astype(int)
    assert (picture[5, 5] > 250).all()
    red, green, blue = picture[HEIGHT // 2, WIDTH // 2]
    assert red > 240 and green < 20 and blue < 20
    assert unexpected(page) == []


def test_making_a_page_says_nothing_keeps_no_thread_and_needs_no_certain_port(tmp_path, capfd, monkeypatch):
    with contextlib.ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        monkeypatch.setenv("_VISER_PORT_OVERRIDE", str(taken.getsockname()[1]))
        before = set(threading.enumerate())
        write(tmp_path / "a.html", random_gaussians(5))
        assert set(threading.enumerate()) <= before
    said = capfd.readouterr()
    assert said.out == "" and said.err == ""
    content = (tmp_path / "a.html").read_text()
    assert "<title>a scene</title>" in content and "http-equiv" not in content


def test_strays_are_left_out_for_the_others_sake_and_the_whole_scene_is_not(tmp_path):
    gaussians = random_gaussians(50)
    gaussians.params["means"].data[3] = 1e5
    colours = colours_of(gaussians)
    assert encode(Splats.of(gaussians), colours, VIEW, title="", background=BLACK).too_far == 1
    gaussians.params["means"].data += 1e6
    assert encode(Splats.of(gaussians), colours, VIEW, title="", background=BLACK).too_far == 0


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_no_covariance_vanishes_or_overflows_in_any_unit(tmp_path, unit, monkeypatch):
    gaussians = discs(-1.0, 1.0)
    gaussians.params["means"].data *= unit
    gaussians.params["scales"].data += math.log(unit)
    seen = {}

    def look(centers, covariances, *rest):
        seen["centers"], seen["covariances"] = centers, covariances.astype(np.float16)
        return "<head></head>"

    monkeypatch.setattr("exporting.page._page", look)
    view = Viewpoint(VIEW.position * unit, VIEW.target, VIEW.up, VIEW.field_of_view)
    encode(Splats.of(gaussians), colours_of(gaussians), view, title="", background=BLACK)
    assert np.isfinite(seen["covariances"]).all()
    # the eye is ten units away
    np.testing.assert_allclose(np.sort(seen["centers"][:, 2]), [-10 / 6, 10 / 6], rtol=1e-5)
    variances = np.linalg.eigvalsh(seen["covariances"].astype(np.float64))
    expected = np.square([0.1 / 6, 10 / 6, 15 / 6])
    np.testing.assert_allclose(variances, np.broadcast_to(expected, (2, 3)), rtol=2e-3)  # 11 bits a number
