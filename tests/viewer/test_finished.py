"""`scripts/view`: what it finds in a folder, what it shows, and what users get wrong."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import UserError
from gaussian_model import save_ply
from tests.viewer.fake_browser import FakeBrowser
from tests.viewer.models import some_gaussians
from viewer.finished import Exhibition, find
from viewer.frame import Pose
from viewer.painter import Style

ROOT = Path(__file__).resolve().parent.parent.parent
STYLE = Style(antialiased=False, backend="cpu")


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may harm."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def exhibition(finished_run: Path) -> Iterator[Exhibition]:
    opened = Exhibition(find(finished_run), -1, "localhost", 18180, STYLE)
    yield opened
    opened.close()


def _look(exhibition: Exhibition) -> FakeBrowser:
    """A browser that is served while it waits."""
    browser = FakeBrowser(exhibition.port)
    patiently = browser.wait

    def wait(what: Callable[[], Any]) -> Any:
        def look() -> Any:
            exhibition.serve()
            return what()

        return patiently(look)

    browser.wait = wait  # type: ignore[method-assign]
    return browser


def test_a_run_is_found_with_its_iterations_cameras_and_photographs(finished_run):
    found = find(finished_run)
    assert found.iterations == (40, 100, 200)
    assert [stand.kind for stand in found.stands].count("test") == 2  # of 10 views, every 8th
    assert all(stand.photograph is not None for stand in found.stands)
    assert len(found.load(40)) != len(found.load(200))


def test_a_run_whose_scene_is_gone_has_its_cameras_alone(run, caplog):
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub(r"source_path: .*", "source_path: /no/longer/there", config))
    found = find(run)
    assert len(found.stands) == 10 and all(stand.photograph is None for stand in found.stands)
    assert "the scene is gone (/no/longer/there)" in caplog.text


def test_a_scene_that_is_damaged_leaves_the_cameras_on_record(run, small_scene, tmp_path, caplog):
    damaged = Path(shutil.copytree(small_scene, tmp_path / "damaged"))
    shutil.rmtree(damaged / "sparse")
    found = find(run, damaged)
    assert len(found.stands) == 10
    assert "shown without photographs" in caplog.text


def test_another_trainers_folder_is_shown_too(run, caplog):
    (run / "config.yaml").unlink()
    found = find(run)
    assert len(found.stands) == 10 and found.iterations[-1] == 200
    assert "not a run of this program" in caplog.text


def test_gaussians_without_a_ply_are_read_from_the_checkpoint(run):
    shutil.rmtree(run / "point_cloud")
    found = find(run)
    assert found.iterations == (200,)
    assert len(found.load(200)) > 0


def test_a_bare_ply_is_shown_without_cameras_or_with_those_of_a_scene(finished_run, small_scene):
    ply = finished_run / "point_cloud" / "iteration_100" / "point_cloud.ply"
    assert (find(ply).iterations, find(ply).stands) == ((100,), [])
    assert len(find(ply, small_scene).stands) == 10


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "no such folder or file"),
        (lambda folder: _empty(folder / "empty"), "expected Gaussians in point_cloud/iteration_N"),
        (lambda folder: _text(folder / "notes.txt", "x"), "expected the output folder of a run or a .ply"),
    ],
)
def test_what_is_no_model_is_refused_in_words(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        find(make(tmp_path))


def test_a_damaged_ply_and_an_iteration_that_is_not_there_are_refused(finished_run, tmp_path):
    with pytest.raises(UserError, match=r"notes\.ply"):
        Exhibition(find(_text(tmp_path / "notes.ply", "ply\nnonsense")), -1, "localhost", 18180, STYLE)
    with pytest.raises(UserError, match="one of those saved, 40, 100, 200"):
        Exhibition(find(finished_run), 60, "localhost", 18180, STYLE)


def test_cameras_on_record_that_are_damaged_are_named(run):
    (run / "config.yaml").unlink()
    (run / "cameras.json").write_text(json.dumps([{"id": 0}]))
    with pytest.raises(UserError, match=r"cameras\.json"):
        find(run)


def test_the_newest_is_shown_first_and_the_slider_picks_another(exhibition):
    browser = _look(exhibition)
    newest = browser.wait(browser.splats)
    browser.wait(lambda: "iteration 200" in browser.status())
    browser.set("step", 55)  # the nearest is 40
    browser.wait(lambda: "iteration 40" in browser.status())
    browser.wait(lambda: 0 < browser.splats() != newest)
    browser.close()


def test_a_damaged_iteration_is_a_warning_and_the_one_before_stays(run, caplog):
    exhibition = Exhibition(find(run), -1, "localhost", 18180, STYLE)
    (run / "point_cloud" / "iteration_40" / "point_cloud.ply").write_bytes(b"ply\nnonsense")
    browser = _look(exhibition)
    shown = browser.wait(browser.splats)
    browser.set("step", 40)
    browser.wait(lambda: "iteration_40" in caplog.text)
    assert exhibition._faults.count == 1
    for _ in range(5):
        exhibition.serve()
    assert exhibition._faults.count == 1  # not tried again and again
    assert browser.splats() == shown and "iteration 200" in browser.status()
    browser.close()
    exhibition.close()


def test_pictures_are_rendered_from_where_the_browser_is_and_anew_when_it_moves(exhibition):
    browser = _look(exhibition)
    browser.wait(browser.splats)
    browser.set("show", "rendered by the program")

    def pictures() -> int:
        return sum(message["format"] == "jpeg" for message in browser.of("BackgroundImageMessage"))

    browser.wait(pictures)
    browser.wait(lambda: not exhibition.serve() and not exhibition._session.courier.busy)
    before = pictures()
    for _ in range(5):
        exhibition.serve()
    assert pictures() == before  # nothing has changed
    browser.move(Pose(np.array([0.5, 0.0, -3.0]), np.array([1.0, 0.0, 0.0, 0.0]), 0.9, 1.5))
    browser.wait(lambda: pictures() > before)
    browser.close()


def test_colours_follow_who_moves(exhibition):
    browser = _look(exhibition)
    browser.wait(browser.splats)
    browser.wait(lambda: not exhibition.serve() and not exhibition._session.courier.busy)

    def updates() -> int:
        return sum("buffer" in message["updates"] for message in browser.of("SceneNodeUpdateMessage"))

    before = updates()
    browser.move(Pose(np.array([4.0, 0.0, 0.5]), np.array([1.0, 0.0, 0.0, 0.0]), 0.9, 1.5))
    browser.wait(lambda: updates() > before)
    browser.close()


def test_a_photograph_is_compared_with_its_rendering(exhibition):
    browser = _look(exhibition)
    browser.set("compare", True)
    browser.set("", "next")

    def words() -> str:
        texts = [m["updates"].get("_markdown", "") for m in browser.of("GuiUpdateMessage")]
        return next((text for text in texts if "PSNR" in text), "")

    assert re.match(r"view_001\.png: photograph, rendering; PSNR \d+\.\d dB at 80x60", browser.wait(words))
    browser.close()


def test_a_model_without_gaussians_opens_and_it_is_said(tmp_path, caplog):
    save_ply(tmp_path / "none.ply", some_gaussians(0))
    exhibition = Exhibition(find(tmp_path / "none.ply"), -1, "localhost", 18180, STYLE)
    browser = _look(exhibition)
    browser.wait(lambda: "0 Gaussians" in browser.status())
    assert "none: iteration 0 has no Gaussians" in caplog.text
    assert browser.splats() == 0
    browser.close()
    exhibition.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_one_line_and_ends_by_a_signal(finished_run, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "viewer", str(finished_run), "--port", "18280"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(
        r"viewer: http://localhost:(\d+)( \(port 18280 is taken\))? \(Ctrl-C ends it\)\n", line
    )
    assert found, line + process.communicate(timeout=60)[1]
    browser = FakeBrowser(int(found[1]))
    browser.wait(browser.splats)
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, rest, errors) == (0, "\n", "")
    browser.close()


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "viewer", str(tmp_path / "nothing")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
