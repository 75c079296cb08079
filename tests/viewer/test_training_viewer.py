"""A training that is watched: what people can do to it, and what they cannot.

The browsers here have no screen (fake_browser.py) but speak to the real server. Not checked here: what it
costs in time (docs/viewer.md says what was measured), and real browsers (test_chromium.py).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import StopRequest
from scene import Scene, SceneConfig, load_scene
from tests.viewer.fake_browser import PATIENCE_S, FakeBrowser
from tests.viewer.loop import NEVER, Loop, open_free, port_of
from tests.viewer.models import some_gaussians
from viewer import session, training
from viewer.faults import TOLERATED
from viewer.frame import Pose
from viewer.page import Page
from viewer.painter import Style
from viewer.stands import Stands
from viewer.training import NoViewer, Viewer, open_viewer


@pytest.fixture(scope="module")
def scene(small_scene: Path) -> Scene:
    return load_scene(small_scene, SceneConfig(eval=True))


@pytest.fixture
def watched(scene: Scene) -> Iterator[tuple[Viewer, Loop, FakeBrowser]]:
    """A viewer, a training, and a browser that looks at it."""
    viewer = open_free(scene)
    with viewer:
        loop, browser = Loop(viewer, some_gaussians(200)), FakeBrowser(port_of(viewer))
        yield viewer, loop, browser
        viewer._board.tell(paused=False)
        loop.end()
        browser.close()


def test_splats_cameras_and_a_status_arrive(watched, scene):
    _, _, browser = watched
    browser.wait(lambda: browser.splats() > 150)  # some are too faint
    browser.wait(lambda: "of 1,000" in browser.status() and "loss 0.5" in browser.status())
    browser.wait(lambda: len(browser.of("CameraFrustumMessage")) == len(scene.train) + len(scene.test))
    colours = {tuple(message["props"]["color"]) for message in browser.of("CameraFrustumMessage")}
    assert len(colours) == 2  # trained on, held out
    assert all(message["props"]["_image_data"] for message in browser.of("CameraFrustumMessage"))


def test_a_pause_holds_the_training_until_it_is_resumed(watched):
    viewer, loop, browser = watched
    browser.set("Pause training", True)
    browser.wait(lambda: "paused" in browser.status())
    assert loop.stands()
    browser.set("Pause training", True)  # the same button
    assert loop.goes_on()
    browser.wait(lambda: "paused" not in browser.status())
    assert viewer.paused_seconds > 0.2


def test_while_paused_a_camera_that_moves_gets_pictures(watched):
    _, loop, browser = watched
    browser.set("Pause training", True)
    assert loop.stands()
    browser.set("show", "depth")
    pictures = browser.wait(
        lambda: [m for m in browser.of("BackgroundImageMessage") if m["format"] == "jpeg"]
    )
    browser.move(Pose(np.array([1.0, 0.0, -4.0]), np.array([1.0, 0.0, 0.0, 0.0]), 0.9, 1.5))
    browser.wait(lambda: len(browser.of("BackgroundImageMessage")) > len(pictures) + 2)


def test_a_pause_ends_when_the_browser_dies(watched, monkeypatch, caplog):
    viewer, loop, browser = watched
    monkeypatch.setattr(training, "GONE_S", 0.3)
    browser.set("Pause training", True)
    assert loop.stands()
    browser.die()
    assert loop.goes_on()
    assert "nobody looks any more: it goes on" in caplog.text
    assert not viewer._board.watched


def test_a_page_that_reloads_finds_the_training_paused(watched):
    viewer, loop, browser = watched
    browser.set("Pause training", True)
    assert loop.stands()
    browser.close()
    again = FakeBrowser(port_of(viewer))
    again.wait(lambda: again.splats() > 0)
    assert loop.stands()
    again.close()


def test_a_pause_ends_when_the_viewer_does_not_answer(watched, monkeypatch, caplog):
    viewer, loop, browser = watched
    monkeypatch.setattr(training, "STUCK_S", 0.3)
    stuck = threading.Event()
    browser.set("Pause training", True)
    assert loop.stands()
    viewer._session.courier.take(lambda: bool(stuck.wait(PATIENCE_S)))
    assert loop.goes_on()
    stuck.set()
    assert "the viewer does not answer: it goes on" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_get_through_a_pause(scene, number, capfd):
    gaussians, iteration = some_gaussians(50), 0
    with StopRequest() as stop, open_free(scene, stop) as viewer:
        assert isinstance(viewer, Viewer)
        browser = FakeBrowser(port_of(viewer))

        def act() -> None:
            browser.set("Pause training", True)
            browser.wait(lambda: "paused" in browser.status())
            os.kill(os.getpid(), number)

        actor = threading.Thread(target=act, daemon=True)
        actor.start()
        until = time.monotonic() + 2 * PATIENCE_S
        while not stop.requested and time.monotonic() < until:
            iteration += 1
            viewer.step(iteration, gaussians)
            time.sleep(0.002)
        actor.join(PATIENCE_S)
        assert stop.requested
        assert viewer._board.paused  # nobody has resumed it
        browser.close()
    assert "stopping after this iteration" in capfd.readouterr().err


def test_without_anybody_nothing_is_even_looked_at(scene):
    with open_free(scene) as viewer:
        assert isinstance(viewer, Viewer)
        viewer.step(1, None)  # type: ignore[arg-type]  # whatever is read of it would be a fault
        assert viewer._faults.count == 0
        browser = FakeBrowser(port_of(viewer))
        browser.wait(lambda: viewer._board.watched)
        viewer.step(2, None)  # type: ignore[arg-type]
        assert viewer._faults.count == 1  # the case is a real one
        browser.close()
        browser.wait(lambda: not viewer._board.watched)
        viewer.step(3, None)  # type: ignore[arg-type]
        assert viewer._faults.count == 1


def test_the_viewer_takes_at_most_its_share_of_the_time(scene, monkeypatch):
    with open_free(scene) as viewer:
        assert isinstance(viewer, Viewer)
        browser = FakeBrowser(port_of(viewer))
        browser.wait(lambda: viewer._board.watched)
        spent: list[float] = []

        def serve(moment: object, eager: bool) -> bool:
            began = time.perf_counter()
            time.sleep(0.01)
            spent.append(time.perf_counter() - began)
            return True

        monkeypatch.setattr(viewer._session, "serve", serve)
        began = time.perf_counter()
        while time.perf_counter() - began < 1.0:
            viewer.step(1, some_gaussians(1))
        assert len(spent) > 1
        # the last one's rest has not been yet
        assert sum(spent[:-1]) <= 1.01 * training.SHARE * (time.perf_counter() - began)
        browser.close()


@pytest.mark.parametrize(
    ("where", "name"), [(Page, "show_splats"), (Page, "say"), (Page, "furnish"), (session, "take_splats")]
)
def test_whatever_fails_in_the_viewer_training_goes_on(scene, monkeypatch, caplog, where, name):
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError(f"{name} on purpose")

    monkeypatch.setattr(where, name, fail)
    with caplog.at_level(logging.WARNING), open_free(scene) as viewer:
        assert isinstance(viewer, Viewer)
        loop, browser = Loop(viewer, some_gaussians(50)), FakeBrowser(port_of(viewer))
        browser.wait(lambda: viewer._faults.count >= 1)
        assert loop.goes_on()
        if name != "furnish":  # that one is done once
            browser.wait(lambda: viewer._faults.count >= TOLERATED)
            assert not viewer._board.watched
            assert loop.goes_on()
        loop.end()
        browser.close()
    assert f"{name} on purpose" in caplog.text and "training goes on" in caplog.text


def test_a_control_that_fails_is_a_warning(watched, monkeypatch, caplog):
    _, loop, browser = watched

    def fail(*arguments: object) -> None:
        raise RuntimeError("go on purpose")

    monkeypatch.setattr(Stands, "go", fail)
    browser.set("", "next")
    browser.wait(lambda: "go on purpose" in caplog.text)
    assert loop.goes_on()


def test_a_server_that_dies_leaves_training_alone(watched):
    viewer, loop, browser = watched
    browser.wait(lambda: browser.splats() > 0)
    viewer._session.page.close()
    assert loop.goes_on()


def test_browsers_may_come_and_go(watched):
    viewer, loop, _ = watched
    for leave in (FakeBrowser.close, FakeBrowser.die, FakeBrowser.babble) * 3:
        guest = FakeBrowser(port_of(viewer))
        guest.wait(guest.splats)
        leave(guest)
    assert loop.goes_on()
    assert viewer._faults.count == 0


def test_next_goes_to_the_photographs_one_after_the_other_and_compares(watched):
    viewer, _, browser = watched
    browser.set("compare", True)
    browser.set("", "next")
    browser.wait(lambda: viewer._board.chosen == 0)
    browser.wait(lambda: browser.of("SetCameraFovMessage") and browser.of("SetCameraLookAtMessage"))
    browser.wait(
        lambda: any("PSNR" in m["updates"].get("_markdown", "") for m in browser.of("GuiUpdateMessage"))
    )
    browser.set("", "previous")
    browser.wait(lambda: viewer._board.chosen == len(viewer._session._stands) - 1)


def test_one_can_look_back_at_an_earlier_step_and_return(watched):
    viewer, loop, browser = watched
    board = viewer._board
    browser.set("refresh every", 1)
    few = browser.wait(browser.splats)
    loop.gaussians = some_gaussians(400)
    browser.wait(lambda: browser.splats() > few)
    many, newest = browser.splats(), loop.iteration
    browser.set("step", 1)
    browser.wait(lambda: browser.splats() == few)
    browser.wait(lambda: "looking back" in browser.status())
    assert loop.goes_on()
    time.sleep(0.2)
    assert browser.splats() == few  # nothing newer is shown meanwhile
    browser.set("step", newest + 10**6)
    browser.wait(lambda: board.step is None and browser.splats() == many)


def test_a_wish_to_look_back_counts_however_fast_the_slider_follows_the_training(watched):
    viewer, _, browser = watched
    board, panel = viewer._board, viewer._session.page._panel
    browser.set("refresh every", 1)
    browser.wait(lambda: browser.control("step") is not None and not panel._step.disabled)
    ends = threading.Event()

    def follow() -> None:
        newest = 10**6
        while not ends.is_set():
            panel.span(1, newest := newest + 1)
            time.sleep(1e-4)

    storm = threading.Thread(target=follow)
    storm.start()
    try:
        for wish in range(1, 41):
            browser.set("step", wish)
            browser.wait(lambda wish=wish: board.step == wish)
            board.tell(step=None)  # it follows again
    finally:
        ends.set()
        storm.join()


def test_a_model_that_loses_all_its_gaussians_and_gets_new_ones_is_shown(watched):
    _, loop, browser = watched
    browser.set("refresh every", 1)
    browser.wait(lambda: browser.splats() > 0)
    loop.gaussians = some_gaussians(0)
    browser.wait(lambda: browser.splats() == 0)
    loop.gaussians = some_gaussians(300)
    browser.wait(lambda: browser.splats() > 200)


def test_the_last_step_is_shown_and_the_end_is_said(scene):
    with open_free(scene) as viewer:
        browser = FakeBrowser(port_of(viewer))
        browser.wait(lambda: viewer._board.watched)
        viewer.step(1, some_gaussians(50))
        viewer.step(2, some_gaussians(50))  # not due
        viewer.step(1000, some_gaussians(300))  # the last, whatever is due
    browser.wait(lambda: browser.splats() > 200)
    browser.wait(lambda: "the training is over" in browser.status())


def test_nobody_can_have_the_viewer_shared_with_the_world(watched):
    viewer, loop, browser = watched
    browser.ask_to_share()
    browser.set("refresh every", 3)
    browser.wait(lambda: viewer._board.every == 3)  # what was sent before that has been heard
    time.sleep(0.2)
    assert viewer._session.page._server._share_tunnel is None
    assert loop.goes_on()


def test_a_port_that_is_taken_is_said_and_another_one_taken(scene, capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with open_free(scene, port=taken) as viewer:
            assert isinstance(viewer, Viewer)
            assert port_of(viewer) != taken
    said = capfd.readouterr()
    assert f"(port {taken} is taken)" in said.err
    assert said.out == "" and said.err.count("\n") == 1  # viser's own words are left out


@pytest.mark.parametrize("wrong", [{"host": "192.0.2.1"}, {"port": 70000}])
def test_a_viewer_that_cannot_be_opened_is_a_warning(scene, caplog, wrong):
    options: dict[str, Any] = {"host": "localhost", "port": 8080, **wrong}
    viewer = open_viewer(
        True,
        scene,
        style=Style(False, "cpu"),
        background=torch.zeros(3),
        iterations=10,
        stop=NEVER,
        **options,
    )
    assert not isinstance(viewer, Viewer)
    with viewer:
        viewer.step(1, some_gaussians(1))
    assert "training goes on without a viewer" in caplog.text


def test_no_viewer_is_opened_where_none_is_wanted(scene):
    def not_called(*_: object) -> None:
        raise AssertionError("a server was opened")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Page", not_called)
        viewer = open_viewer(
            False,
            scene,
            host="",
            port=0,
            style=Style(False, "cpu"),
            background=torch.zeros(3),
            iterations=1,
            stop=NEVER,
        )
    assert type(viewer) is NoViewer
