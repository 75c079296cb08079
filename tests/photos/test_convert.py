"""Photographs become a scene: poses are right, what exists stays whole, what fails says why.

Not checked: pycolmap's own accuracy on hundreds of photographs.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

import scripts.convert_photos as command
from errors import UserError
from photos import SfmConfig, convert, scene_of
from photos.prepare import RECORD
from photos.reconstruct import pairs_of
from scene import SceneConfig, load_scene

ROOT = Path(__file__).resolve().parents[2]
QUICK = SfmConfig(max_features=3000)


def _photos(true_scene: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path in (true_scene / "images").iterdir():
        shutil.copy(path, folder)
    return folder


def _own_name(name: str) -> str:
    """As people and telephones name files: with spaces, and what lists and shells take for something else."""
    return f"# Ä 100% {name.replace('.', ' (1).')}"


@pytest.fixture(scope="module")
def made(true_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of photographs, with the scene that was made of them in it."""
    folder = _photos(true_scene, tmp_path_factory.mktemp("mine") / "Höhle mit Ä")
    for path in list(folder.iterdir()):
        path.rename(folder / _own_name(path.name))
    found = convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)
    assert found.path == folder / "colmap" and not found.warnings
    assert "10 of 10 photographs placed" in found.lines[0], found.lines
    return folder


def _relative(model: pycolmap.Reconstruction, one: str, other: str) -> pycolmap.Rigid3d:
    by_name = {image.name: image for image in model.images.values()}
    return by_name[one].cam_from_world() * by_name[other].cam_from_world().inverse()


def test_poses_and_focal_length_are_those_of_the_truth(true_scene, made):
    """Up to scale. A pixel is 0.2 degrees, and an error of focal length turns cameras."""
    ours = pycolmap.Reconstruction(str(made / "colmap" / "sparse" / "0"))
    truth = pycolmap.Reconstruction(str(true_scene / "sparse" / "0"))
    (camera,), (true_camera,) = ours.cameras.values(), truth.cameras.values()
    assert camera.mean_focal_length() == pytest.approx(true_camera.mean_focal_length(), rel=0.02)
    names = sorted(image.name for image in truth.images.values())
    for one, other in pairwise(names):
        found, true = _relative(ours, _own_name(one), _own_name(other)), _relative(truth, one, other)
        turned = (found.rotation * true.rotation.inverse()).angle()
        assert np.degrees(turned) < 1.0, (one, other)
        a, b = (np.asarray(x.translation) / np.linalg.norm(x.translation) for x in (found, true))
        assert np.degrees(np.arccos(np.clip(a @ b, -1, 1))) < 2.0, (one, other)


def test_the_scene_loads_and_is_not_made_twice(made):
    scene = load_scene(made / "colmap", SceneConfig())
    assert {view.name for view in scene.train} == {path.name for path in made.iterdir() if path.is_file()}
    assert len(scene.train) == 10 and len(scene.points) > 50
    before = (made / "colmap" / "sparse" / "0" / "images.bin").stat().st_mtime_ns
    again = scene_of(made, threads=2, quiet=True)  # other options would make it anew
    assert again is not None and again.path == made / "colmap"
    kept = convert(made, made / "colmap", SfmConfig(), threads=2, quiet=True)
    assert "made earlier" in kept.lines[0]
    assert (made / "colmap" / "sparse" / "0" / "images.bin").stat().st_mtime_ns >= before
    assert not [path for path in made.iterdir() if path.name.endswith(".tmp")]


def test_a_scene_and_an_empty_folder_are_left_alone(true_scene, tmp_path):
    assert scene_of(true_scene, threads=1) is None
    assert scene_of(tmp_path, threads=1) is None
    assert scene_of(tmp_path / "gone", threads=1) is None


def test_photographs_one_folder_down_are_found_out(true_scene, tmp_path):
    _photos(true_scene, tmp_path / "trip" / "day 1")
    with pytest.raises(
        UserError, match=r"trip: expected photographs in it, got some in day 1: name that folder"
    ):
        scene_of(tmp_path / "trip", threads=1)


def test_what_lies_where_the_scene_should_go_is_not_touched(true_scene, tmp_path):
    folder = _photos(true_scene, tmp_path / "mine")
    (folder / "colmap").mkdir()
    (folder / "colmap" / "notes.txt").write_text("dear")
    with pytest.raises(UserError, match=r"colmap: expected no such file, or a scene that was made here"):
        convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)
    assert (folder / "colmap" / "notes.txt").read_text() == "dear"


def test_photographs_that_have_nothing_in_common_get_advice_and_leave_nothing(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 256, (60, 80, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC))
    with pytest.raises(UserError, match=r"placed 0 of 3.*0\.png, 1\.png, 2\.png: too few points in common"):
        convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png", "2.png"]


def test_blank_photographs_are_told_from_lone_ones(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), np.full((120, 160, 3), 90 + i, np.uint8))
    with pytest.raises(UserError, match="hardly any detail"):
        convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)


def test_a_camera_that_only_turned_is_told(true_scene, tmp_path):
    """One photograph seen through homographies of pure rotations."""
    folder = tmp_path / "mine"
    folder.mkdir()
    picture = np.asarray(cv2.imread(str(true_scene / "images" / "view_001.png")))
    lens = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
    for i, degrees in enumerate((-6, -2, 2, 6)):
        turn, _ = cv2.Rodrigues(np.array([0.0, np.radians(degrees), 0.0]))
        warped = cv2.warpPerspective(picture, lens @ turn @ np.linalg.inv(lens), (320, 240))
        cv2.imwrite(str(folder / f"{i}.png"), warped[40:200, 50:270])
    try:  # a flat wall far away explains these too
        (warning,) = convert(folder, folder / "colmap", QUICK, threads=2, quiet=True).warnings
    except UserError as error:
        warning = str(error)
    assert "only turned on the spot" in warning


def test_a_killed_process_is_told_with_what_to_lower(true_scene, tmp_path, monkeypatch):
    folder = _photos(true_scene, tmp_path / "mine")
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 'no memory for that' >&2\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr("photos.prepare.sys.executable", str(fake))
    with pytest.raises(UserError, match=r"signal 9 \(no memory\?\)\): no memory for that.*--max_features"):
        convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)
    assert not (folder / "colmap").exists() and not list(folder.glob(".colmap*"))


def test_a_folder_that_cannot_be_written_says_how_to_go_on(true_scene, tmp_path, monkeypatch):
    folder = _photos(true_scene, tmp_path / "mine")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("photos.prepare.tempfile.mkdtemp", refuse)  # root may write everywhere
    with pytest.raises(UserError, match=r"cannot make the scene there.*scripts/convert PHOTOS -o FOLDER"):
        convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)


def test_a_scene_does_not_take_the_place_of_its_photographs(true_scene, tmp_path):
    folder = _photos(true_scene, tmp_path / "mine")
    with pytest.raises(UserError, match="images: photographs are looked for there first"):
        convert(folder, folder / "images", QUICK, threads=2, quiet=True)


def test_a_full_disk_is_one(true_scene, tmp_path, monkeypatch):
    """The process dies by an abort of the database's; the disk is asked, as its message says nothing."""
    folder = _photos(true_scene, tmp_path / "mine")
    monkeypatch.setattr("photos.prepare.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    monkeypatch.setattr("photos.prepare.sys.executable", shutil.which("false"))
    with pytest.raises(OSError, match="No space left") as caught:
        convert(folder, folder / "colmap", QUICK, threads=2, quiet=True)
    assert caught.value.errno == errno.ENOSPC


def test_the_command_makes_a_pinhole_scene_elsewhere(true_scene, tmp_path, capsys):
    folder = _photos(true_scene, tmp_path / "mine" / "images")
    (folder.parent / "masks").mkdir()
    words = [str(folder.parent), "-o", str(tmp_path / "scene"), "--undistort", "--max_features", "3000"]
    command.main([*words, "--matching", "sequential"])
    said = capsys.readouterr()
    assert "scene: " in said.out and "masks: left out" in said.out + said.err
    assert not (tmp_path / "scene" / "masks").exists(), "they fit the photographs as they were"
    model = pycolmap.Reconstruction(str(tmp_path / "scene" / "sparse" / "0"))
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    assert len(load_scene(tmp_path / "scene", SceneConfig()).train) == 10
    record = json.loads((tmp_path / "scene" / RECORD).read_text())
    assert record["config"]["undistort"] and len(record["found"]["registered"]) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "no such folder or video"),
        (["notes.txt"], "expected a folder of photographs or a video"),
        (["."], "expected photographs"),
        ([".", "--frames", "1"], "--frames: expected at least 2"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, words, message):
    (tmp_path / "notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        command.main(words)


def test_every_pair_of_few_photographs_and_neighbours_of_many_are_compared():
    assert pairs_of(4, "auto") == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    many = pairs_of(200, "auto")
    assert all((i, i + 1) in many for i in range(199)) and (0, 199) in many
    assert len(many) == len(set(many)) < 200 * 12 and all(0 <= i < j < 200 for i, j in many)
    assert len(pairs_of(200, "exhaustive")) == 200 * 199 // 2
    assert pairs_of(2, "sequential") == [(0, 1)]


def test_options_have_no_silent_effect_on_what_is_kept(made):
    """Other options are another scene: they are part of what a kept one is recognised by."""
    record = json.loads((made / "colmap" / RECORD).read_text())
    assert set(record["config"]) == {field.name for field in dataclasses.fields(SfmConfig)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llff_fern", "fox"])
def test_photographs_of_a_real_scene_train_end_to_end(shared_scenes, tmp_path, name):
    """12 neighbouring photographs without their model, by the command line alone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pictures = sorted((shared_scenes / name / "images").iterdir())[:12]
    for path in pictures:
        shutil.copy(path, folder)
    command_line = [
        *(sys.executable, str(ROOT / "train.py"), "-s", str(folder), "-m", str(tmp_path / "out"), "--eval"),
        *("--config", "quick", "--iterations", "150", "-r", "4"),
    ]
    done = subprocess.run(command_line, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 photographs placed" in done.stderr, done.stderr
    figures = json.loads((tmp_path / "out" / "results.json").read_text())["ours_150"]
    assert figures["PSNR"] > 15.0  # 150 iterations at a quarter of the size; wrong poses give 10 to 12 dB
