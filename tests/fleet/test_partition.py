"""Cells tile the plane, blocks leave nothing out, and each is a COLMAP scene that the scene room reads."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from errors import UserError
from fleet import blocks
from fleet.block_scenes import Wish, read_partition, write_partition
from fleet.partition import Cell, assign, cut, ground_plane
from fleet.scenes import find_jobs
from scene import SceneConfig, load_scene
from scene.colmap import read_colmap

WISH = Wish(2, 1, 0.2, 0.25, held_out=False, test_every=8, images="", skip_missing=False)


def street(cameras: int = 60, points: int = 900) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A long street on a tilted plane; a camera observes what is within 8 of it. World units."""
    rng = np.random.default_rng(3)
    tilt = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    flat = np.stack(
        [rng.uniform(0, 100, cameras), rng.uniform(0, 30, cameras), rng.uniform(0, 1, cameras)], 1
    )
    around = np.stack(
        [rng.uniform(-20, 120, points), rng.uniform(-9, 40, points), rng.uniform(-5, 5, points)], 1
    )
    seen = [np.flatnonzero(np.linalg.norm(around - one, axis=1) < 8) for one in flat]
    return flat @ tilt.T, around @ tilt.T, seen


@pytest.mark.parametrize(("a", "b"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_cells_tile_the_plane_with_equally_many_cameras(a, b):
    centres, xyz, _ = street()
    plane = ground_plane(centres)
    assert np.allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-12)  # double precision
    spots = plane.spots(centres)
    assert np.ptp(spots[:, 0]) > np.ptp(spots[:, 1]), "the first axis is the longest"
    cells = cut(spots, a, b)
    assert len(cells) == a * b
    corners = np.array([[x, y] for cell in cells for x in (cell.low[0], cell.high[0]) for y in cell.low[1:]])
    far = np.random.default_rng(0).normal(scale=1e6, size=(500, 2))
    for places in (spots, plane.spots(xyz), far, corners[np.isfinite(corners).all(axis=1)]):
        assert np.array_equal(sum(cell.holds(places).astype(int) for cell in cells), np.ones(len(places)))
    counts = [int(cell.holds(spots).sum()) for cell in cells]
    assert max(counts) - min(counts) <= 2, counts  # one by rounding along each axis


def test_every_camera_and_point_is_in_a_block_and_neighbours_overlap():
    centres, xyz, seen = street()
    plane = ground_plane(centres)
    cameras, points = plane.spots(centres), plane.spots(xyz)
    cells = cut(cameras, 3, 2)
    found = assign(cells, cameras, points, seen, overlap=0.2, visible=0.25)
    assert set().union(*(block.cameras.tolist() for block in found)) == set(range(len(cameras)))
    assert set().union(*(block.points.tolist() for block in found)) == set(range(len(points)))
    without = assign(cells, cameras, points, seen, overlap=0.0, visible=1.1)
    assert sum(len(block.cameras) for block in without) == len(cameras), "each in its cell alone"
    for block, bare in zip(found, without, strict=True):
        assert set(bare.cameras) < set(block.cameras) and len(block.cameras) < len(cameras)
        for camera in set(block.cameras) - set(bare.cameras):
            inside = block.cell.holds(points[seen[camera]]).mean()
            near = np.abs(np.clip(cameras[camera], block.cell.low, block.cell.high) - cameras[camera]).max()
            assert inside >= 0.25 or near <= 0.2 * 100, "it sees enough of the cell, or stands near it"


def test_a_camera_far_away_that_looks_at_a_block_is_one_of_its():
    cells = [Cell("left", (-np.inf, -np.inf), (0.0, np.inf)), Cell("right", (0.0, -np.inf), (np.inf, np.inf))]
    cameras, points = (
        np.array([[-1.0, 0], [-2, 0], [50, 0], [60, 0]]),
        np.array([[-3.0, 0], [-4, 0], [9, 0], [8, 0]]),
    )
    seen = [np.array(rows) for rows in ([0, 1], [0, 1], [0, 2, 3], [2, 3])]
    left, right = assign(cells, cameras, points, seen, overlap=0.0, visible=0.3)
    assert left.cameras.tolist() == [0, 1, 2] and right.cameras.tolist() == [2, 3]
    assert left.points.tolist() == [0, 1] and right.points.tolist() == [2, 3]
    (none, _) = assign(cells, cameras, points, seen, overlap=0.0, visible=0.4)
    assert none.cameras.tolist() == [0, 1]


def test_blocks_are_scenes_with_the_same_cameras_points_and_photographs(small_scene, tmp_path):
    place = tmp_path / "blocks"
    place.mkdir()
    made = write_partition(small_scene, place, WISH)
    truth = read_colmap(small_scene / "sparse" / "0", ".bin", small_scene / "images", None)
    poses = {frame.name: frame.viewmat for frame in truth.frames}
    known = {tuple(point) for point in truth.xyz.tolist()}
    names, points = set(), set()
    for cell in made.cells:
        folder = place / "scenes" / cell.name
        model = read_colmap(folder / "sparse" / "0", ".bin", folder / "images", None)
        for frame in model.frames:
            assert np.allclose(frame.viewmat, poses[frame.name], atol=1e-12) and frame.image is not None
        names |= {frame.name for frame in model.frames}
        points |= {tuple(point) for point in model.xyz.tolist()}
        assert model.observations is not None and truth.observations is not None
        for name, rows in model.observations.items():
            mine = {tuple(point) for point in model.xyz[rows].tolist()}
            assert mine <= {tuple(point) for point in truth.xyz[truth.observations[name]].tolist()}
        assert (folder / "images").is_symlink() and not os.path.isabs(os.readlink(folder / "images"))
        views = load_scene(folder, SceneConfig(), quiet=True)
        assert (len(views.train), len(views.points)) == made.sizes[cell.name]
    assert names == poses.keys() and points == known


def test_blocks_within_their_scene_do_not_hold_themselves(small_scene, tmp_path):
    scene = Path(shutil.copytree(small_scene, tmp_path / "scene"))
    place = scene / "runs" / "town" / "blocks"
    place.mkdir(parents=True)
    made = write_partition(scene, place, WISH)
    (place / "runs").mkdir()
    (place / "runs" / "fleet.json").touch()
    assert write_partition(scene, place, WISH).digest == made.digest
    for block in (place / "scenes").iterdir():
        assert {path.name for path in block.iterdir()} == {path.name for path in small_scene.iterdir()}


def test_a_partition_is_kept_until_the_scene_or_the_wish_changes(small_scene, tmp_path):
    scene = Path(shutil.copytree(small_scene, tmp_path / "scene"))
    place = tmp_path / "blocks"
    place.mkdir()
    made = write_partition(scene, place, WISH)
    model = place / "scenes" / "block_0_0" / "sparse" / "0" / "images.bin"
    before = model.stat().st_mtime_ns
    kept = write_partition(scene, place, WISH)
    assert model.stat().st_mtime_ns == before and kept.cells == made.cells and kept.sizes == made.sizes
    assert np.array_equal(kept.plane.axes, made.plane.axes) and np.array_equal(
        kept.plane.origin, made.plane.origin
    )
    os.utime(scene / "images" / "view_000.png")
    assert write_partition(scene, place, WISH).digest != made.digest
    assert model.stat().st_mtime_ns != before
    good = json.loads((place / "partition.json").read_text())
    cell, name = good["cells"][0], good["cells"][0]["name"]
    bad: list[dict[str, Any]] = [
        {"sizes": list(good["sizes"])}, {"sizes": {}}, {"sizes": {**good["sizes"], name: [math.inf, 1]}},
        {"cells": [{**cell, "name": "../elsewhere"}]}, {"cells": [{**cell, "low": [10**400, 0]}]},
        {"origin": [math.nan, 0, 0]}, {"axes": [[math.inf, 0, 0], [0, 1, 0]]},
    ]  # fmt: skip
    texts = [json.dumps({**good, **change}) for change in bad]
    for text in ('{"format": 1}', "[" * 100_000, *texts):
        (place / "partition.json").write_text(text)
        with pytest.raises(UserError, match="expected a scene's partition"):
            read_partition(place)


def test_what_only_held_out_views_saw_is_in_no_block(small_scene, tmp_path):
    place = tmp_path / "blocks"
    place.mkdir()
    made = write_partition(small_scene, place, Wish(1, 1, 0.2, 0.25, True, 3, "", False))
    truth = load_scene(small_scene, SceneConfig(eval=True, test_every=3), quiet=True)
    block = load_scene(place / "scenes" / "block_0_0", SceneConfig(), quiet=True)
    assert [view.name for view in block.train] == [view.name for view in truth.train]
    assert made.points == len(truth.points) == len(block.points) < 800 and made.train_views == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--blocks", "2"], "--blocks: expected two numbers as 3x2"),
        (["--blocks", "0x2"], "--blocks"),
        (["--blocks", "4x4"], "ask for fewer blocks"),
        (["--overlap", "-1"], "--overlap: expected 0 to 1"),
        (["--visible", "0"], "--visible"),
        (["--train=--eval"], "--eval: that is for --eval of this command"),
        (["--train=--images ../photos"], "expected a folder in the scene"),
        (["--launcher", "torchrun"], "--stage train only"),
        (["--against", "x"], "no effect without --eval"),
        (["--stage", "merge"], "cut the scene first"),
    ],
)
def test_mistakes_are_told(small_scene, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        blocks.main([str(small_scene), "-o", str(tmp_path / "out"), *words])


def test_a_scene_without_a_model_and_a_folder_with_a_run_are_refused(small_scene, tmp_path):
    with pytest.raises(UserError, match="expected a COLMAP model"):
        blocks.main([str(small_scene / "images"), "-o", str(tmp_path / "out")])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"holds a run of train\.py"):
        blocks.main([str(small_scene), "-o", str(tmp_path / "run")])


def test_what_is_no_block_is_not_removed(small_scene, tmp_path):
    output = tmp_path / "out"
    scenes = output / "blocks" / "scenes"
    words = [str(small_scene), "-o", str(output), "--blocks", "1x1", "--stage", "partition"]
    for precious in (scenes / "mine" / "a.txt", scenes / "block_0_0" / "a.txt"):
        precious.parent.mkdir(parents=True)
        precious.write_text("precious")
        with pytest.raises(UserError, match=f"{precious.parent}: expected nothing in this folder but blocks"):
            blocks.main(words)
        assert precious.read_text() == "precious"
        shutil.rmtree(precious.parent)
    assert blocks.main(words) == 0
    (output / "blocks" / "partition.json").unlink()
    shutil.rmtree(scenes / "block_0_0" / "sparse" / "0")  # killed while it was being replaced
    assert blocks.main(words) == 0 and (scenes / "block_0_0" / "sparse" / "0").is_dir()
    shutil.move(scenes, tmp_path / "elsewhere")
    scenes.symlink_to(tmp_path / "elsewhere")
    (output / "blocks" / "partition.json").unlink()
    with pytest.raises(UserError, match="expected a folder, got a link"):
        blocks.main(words)


def test_a_scene_is_not_cut_into_its_own_folder(small_scene, tmp_path, monkeypatch):
    shutil.copytree(small_scene, tmp_path / "scene")
    monkeypatch.chdir(tmp_path / "scene")
    before = sorted(Path().rglob("*"))
    with pytest.raises(UserError, match="expected another folder than the scene's"):
        blocks.main([".", "-o", "."])
    assert sorted(Path().rglob("*")) == before


def test_photographs_in_a_folder_that_begins_like_the_models_are_linked(small_scene, tmp_path):
    scene = Path(shutil.copytree(small_scene, tmp_path / "scene"))
    (scene / "images").rename(scene / "sparse_photos")
    (scene / "sparse_2").mkdir()
    place = tmp_path / "blocks"
    place.mkdir()
    write_partition(scene, place, Wish(1, 1, 0.2, 0.25, True, 8, "sparse_photos", False))
    block = place / "scenes" / "block_0_0"
    assert (block / "sparse_photos").is_symlink() and not (block / "sparse_2").exists()
    assert len(load_scene(block, SceneConfig(images="sparse_photos"), quiet=True).train) == 8


def test_a_model_with_other_options_is_not_measured(small_scene, tmp_path):
    output = tmp_path / "out"
    words = [str(small_scene), "-o", str(output), "--blocks", "1x1", "--eval"]
    blocks.main([*words, "--stage", "partition"])
    record = output / "blocks" / "merged.json"
    for text, message in (
        ("", "put the blocks together first"),
        ("[]", "expected a merged model's record"),
        ('{"options": "others"}', "has other --train than are given now"),
    ):
        if text:
            record.write_text(text)
        with pytest.raises(UserError, match=message):
            blocks.main([*words, "--stage", "evaluate"])


def test_a_refused_call_changes_nothing(small_scene, tmp_path):
    place = tmp_path / "blocks"
    place.mkdir()
    write_partition(small_scene, place, WISH)
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    with pytest.raises(UserError, match="ask for fewer blocks"):
        write_partition(small_scene, place, replace(WISH, a=30))
    assert {path: path.lstat().st_mtime_ns for path in place.rglob("*")} == before
    (place / "scenes" / "mine").touch()
    with pytest.raises(UserError, match="expected nothing in this folder but blocks"):
        write_partition(small_scene, place, replace(WISH, a=1))
    assert (place / "partition.json").is_file()


def test_a_scene_that_has_moved_is_found_again_without_cutting_anew(small_scene, tmp_path):
    scene = Path(shutil.copytree(small_scene, tmp_path / "scene"))
    place = tmp_path / "blocks"
    place.mkdir()
    write_partition(scene, place, WISH)
    blocks_of = find_jobs([str(place / "scenes")])
    digests = [job.digest() for job in blocks_of]
    (place / "scenes" / "block_0_0" / "images").unlink()
    scene.rename(tmp_path / "moved")
    write_partition(tmp_path / "moved", place, WISH)
    assert all(job.scene.joinpath("images").resolve() == tmp_path / "moved" / "images" for job in blocks_of)
    assert [job.digest() for job in blocks_of] == digests, "what was trained is still true"


def test_what_no_training_would_take_is_not_cut(small_scene, tmp_path):
    scene = Path(shutil.copytree(small_scene, tmp_path / "scene"))
    model = pycolmap.Reconstruction(str(scene / "sparse" / "0"))
    for camera in model.cameras.values():
        camera.focal_length = 0.0
    model.write(str(scene / "sparse" / "0"))
    with pytest.raises(UserError, match="expected focal lengths above 0"):
        blocks.main([str(scene), "-o", str(tmp_path / "out"), "--stage", "partition"])
    assert not (tmp_path / "out" / "blocks" / "partition.json").exists()
