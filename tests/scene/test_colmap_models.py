"""Which COLMAP model is read, and that what comes out is what went in."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import pycolmap
import pytest
import torch

from scene import SceneConfig, SceneError, load_scene
from scene.colmap import find_model
from scene.colmap_check import check_model


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("at", ["sparse/0", "sparse", "."])
def test_binary_and_text_models_are_found_in_every_usual_place(make_scene, at, suffix):
    scene = load_scene(make_scene(4, at=at, suffix=suffix), SceneConfig())
    assert [view.name for view in scene.train] == [f"img_{i:02d}.png" for i in range(4)]
    assert len(scene.points) == 4 and scene.test == ()


def test_text_and_binary_give_the_same_scene(make_scene):
    a = load_scene(make_scene(5, folder="a"), SceneConfig())
    b = load_scene(make_scene(5, folder="b", suffix=".txt"), SceneConfig())
    # COLMAP's text keeps 17 digits, so only float64 rounding is left, which float32 hides
    assert torch.equal(a.points.xyz, b.points.xyz) and torch.equal(a.points.rgb, b.points.rgb)
    for one, other in zip(a.train, b.train, strict=True):
        assert torch.equal(one.pixels, other.pixels) and torch.equal(one.camera.K, other.camera.K)
        torch.testing.assert_close(one.camera.viewmat, other.camera.viewmat, rtol=1e-6, atol=1e-6)


def test_the_model_without_rigs_that_older_colmap_wrote_reads_the_same(make_scene):
    source = make_scene(3)
    new = load_scene(source, SceneConfig())
    for stem in ("rigs", "frames"):
        (source / "sparse/0" / f"{stem}.bin").unlink(missing_ok=True)
    old = load_scene(source, SceneConfig())
    for one, other in zip(new.train, old.train, strict=True):
        assert torch.equal(one.camera.viewmat, other.camera.viewmat)


def test_of_several_models_the_one_with_most_images_is_read(make_scene, caplog):
    source = make_scene(3, at="sparse/0")
    make_scene(6, at="sparse/1")
    make_scene(6, at="sparse/10")
    assert find_model(source) == (source / "sparse/1", ".bin")
    assert len(load_scene(source, SceneConfig()).train) == 6
    assert "using 1 with 6 images" in caplog.text


def test_a_text_model_is_counted_by_its_images_not_its_lines(make_scene):
    source = make_scene(3, at="sparse/0", suffix=".txt")
    make_scene(4, at="sparse/1", suffix=".txt", tracks=[])
    assert find_model(source) == (source / "sparse/1", ".txt")


def test_poses_and_principal_point_are_those_of_the_model(make_scene):
    source = make_scene(4)
    reconstruction = pycolmap.Reconstruction(str(source / "sparse/0"))
    for view in load_scene(source, SceneConfig()).train:
        image = reconstruction.find_image_with_name(view.name)
        expected = torch.from_numpy(image.cam_from_world().matrix()).float()
        torch.testing.assert_close(view.camera.viewmat[:3], expected, rtol=0, atol=1e-6)  # float32 rounding
        assert view.camera.K.tolist() == [[50, 0, 31], [0, 52, 25], [0, 0, 1]]
        center = torch.from_numpy(image.projection_center()).float()
        torch.testing.assert_close(view.camera.center, center, rtol=1e-6, atol=1e-6)


def test_names_with_spaces_survive_a_text_model(make_scene):
    source = make_scene(["my photo 1.png", "my photo 2.png", "b/my photo 1.png"], suffix=".txt")
    names = [view.name for view in load_scene(source, SceneConfig()).train]
    assert names == ["b/my photo 1.png", "my photo 1.png", "my photo 2.png"]


def test_points_keep_their_colours(make_scene):
    scene = load_scene(make_scene(3), SceneConfig())
    order = scene.points.xyz[:, 0].argsort()
    # uint8 / 255 in float32
    torch.testing.assert_close(scene.points.rgb[order][1] * 255, torch.tensor([1.0, 128.0, 255.0]))


def test_real_scenes_agree_with_their_records(shared_scenes):
    """Test lists, n-view lists and the number of points with two training observations."""
    import json

    checked = 0
    for folder in sorted(path.parent for path in shared_scenes.glob("*/split.json")):
        split = json.loads((folder / "split.json").read_text())
        info = json.loads((folder / "info.json").read_text())
        counts = sorted(int(key.removeprefix("train_")) for key in split if key.startswith("train_"))
        for n in counts[:2]:
            scene = load_scene(folder, SceneConfig(eval=True, n_views=n))
            assert [view.name for view in scene.test] == split["test"], folder
            assert [view.name for view in scene.train] == split[f"train_{n}"], folder
            assert len(scene.points) == info["points_nview"][str(n)], folder
            assert [scene.train[0].camera.width, scene.train[0].camera.height] == info["wh"]
            assert np.isfinite(scene.extent) and scene.extent > 0
            checked += 1
    assert checked >= 2


def test_points_of_a_real_scene_project_into_their_images(shared_scenes):
    """Poses, intrinsics and points belong together; does not check colours."""
    scene = load_scene(shared_scenes / "llff_fern", SceneConfig(n_views=3))
    for view in scene.train:
        camera = view.camera
        local = scene.points.xyz @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        pixel = local @ camera.K.T
        pixel = pixel[:, :2] / pixel[:, 2:]
        inside = (pixel >= 0).all(1) & (pixel[:, 0] < camera.width) & (pixel[:, 1] < camera.height)
        # points seen from two of three forward-facing views mostly lie in the third as well
        assert (local[:, 2] > 0).all() and inside.float().mean() > 0.8


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_a_model_with_an_incomplete_set_of_files_names_the_missing_one(make_scene, suffix):
    source = make_scene(3, suffix=suffix)
    (source / "sparse/0" / f"points3D{suffix}").unlink()
    with pytest.raises(SceneError, match=f"no COLMAP model.*lacks points3D{suffix}.*from the photographs"):
        load_scene(source, SceneConfig())


@pytest.mark.parametrize("stem", ["cameras", "images", "points3D", "rigs", "frames"])
def test_a_binary_file_cut_anywhere_is_refused_in_one_line(make_scene, stem):
    folder = make_scene(3) / "sparse/0"
    path = folder / f"{stem}.bin"
    if not path.exists():
        pytest.skip(f"this pycolmap writes no {path.name}")
    whole = path.read_bytes()
    check_model(folder, ".bin")
    for length in sorted({*range(0, min(len(whole), 120)), *range(0, len(whole), 37), len(whole) - 1}):
        path.write_bytes(whole[:length])
        with pytest.raises(SceneError, match=path.name) as caught:
            check_model(folder, ".bin")
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SceneError, match="after its last entry"):
        check_model(folder, ".bin")


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
def test_random_and_flipped_bytes_never_do_worse_than_a_one_line_error(make_scene, suffix):
    """A crash of the reader would end the test run, an endless loop its time; both count."""
    source = make_scene(3, suffix=suffix)
    folder = source / "sparse/0"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        for path in sorted(folder.glob(f"*{suffix}")):
            whole = path.read_bytes()
            damaged = bytearray(whole)
            if rng.random() < 0.3:
                damaged = bytearray(rng.integers(0, 256, rng.integers(0, 400), dtype=np.uint8).tobytes())
            else:
                start = int(rng.integers(len(whole)))
                count = int(rng.choice([1, 4, 8]))
                damaged[start : start + count] = rng.integers(0, 256, count, dtype=np.uint8).tobytes()
            path.write_bytes(damaged)
            try:
                load_scene(source, SceneConfig())
            except SceneError as error:
                assert str(error).count("\n") <= 5  # a line for each bad image, of which five are told
                refused += 1
            path.write_bytes(whole)
    assert refused > 40  # of 200; the others hit a value that may be anything, such as a colour


def test_a_model_whose_files_contradict_each_other_is_refused(make_scene):
    source = make_scene(3, folder="a")
    other = make_scene(6, folder="b")
    shutil.copy(other / "sparse/0/points3D.bin", source / "sparse/0/points3D.bin")
    with pytest.raises(SceneError, match="contradict each other"):
        load_scene(source, SceneConfig())


def test_a_model_without_images_is_refused(make_scene):
    with pytest.raises(SceneError, match="no registered image"):
        load_scene(make_scene(0, tracks=[], images=None), SceneConfig(images="."))


@pytest.mark.parametrize("replacement", ["nan", "1e300", "3.0"])
def test_a_pose_that_is_no_rotation_is_refused(make_scene, replacement):
    source = make_scene(3, suffix=".txt")
    for stem in ("frames", "rigs"):
        (source / "sparse/0" / f"{stem}.txt").unlink(missing_ok=True)
    path = source / "sparse/0/images.txt"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("img_01.png"))
    fields = lines[at].split()
    fields[1] = replacement
    lines[at] = " ".join(fields)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SceneError, match=r"images\.txt"):
        load_scene(source, SceneConfig())


@pytest.mark.parametrize("name", [0, 2, 99, 4294967295])
def test_frames_that_name_another_image_are_refused_in_one_line(make_scene, name):
    """COLMAP notices some of this when it reads, some only when an image is looked up."""
    source = make_scene(3, suffix=".txt")
    path = source / "sparse/0/frames.txt"
    if not path.exists():
        pytest.skip(f"this pycolmap writes no {path.name}")
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    lines[at] = f"{lines[at].rpartition(' ')[0]} {name}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SceneError, match="its files contradict each other") as caught:
        load_scene(source, SceneConfig())
    assert "\n" not in str(caught.value)


def test_frames_that_name_an_image_that_is_not_there_are_refused_in_one_line(make_scene):
    source = make_scene(3, suffix=".txt", tracks=[])
    path = source / "sparse/0/images.txt"
    if not path.with_stem("frames").exists():
        pytest.skip("this pycolmap writes no frames.txt")
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("img_01.png"))
    path.write_text("\n".join([*lines[:at], *lines[at + 2 :]]) + "\n")
    with pytest.raises(SceneError, match="its files contradict each other") as caught:
        load_scene(source, SceneConfig())
    assert "\n" not in str(caught.value)


def _with_quaternion(path, at, values):
    """Overwrites the quaternion at byte `at` of a binary file."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<4d", data, at, *values)
    path.write_bytes(data)


# before the first pose: a count of eight bytes, then an id (images) or two (frames)
@pytest.mark.parametrize(("stem", "at"), [("images", 12), ("frames", 16)])
@pytest.mark.parametrize("quaternion", [(0, 0, 0, 0), (0.85, 0, 0, 0), (0, 0, 1.15, 0), (3, 4, 0, 0)])
def test_a_quaternion_far_from_unit_norm_is_refused_and_not_read_as_the_identity(
    make_scene, stem, at, quaternion
):
    source = make_scene(3)
    path = source / f"sparse/0/{stem}.bin"
    if not path.exists():
        pytest.skip(f"this pycolmap writes no {path.name}")
    _with_quaternion(path, at, quaternion)
    with pytest.raises(SceneError, match=rf"(img_0.*quaternion.*{stem}|{stem}.*img_0.*quaternion)"):
        load_scene(source, SceneConfig())


@pytest.mark.parametrize("quaternion", ["0 0 0 0", "2 0 0 0"])
def test_a_text_quaternion_that_is_no_rotation_names_its_image(make_scene, quaternion):
    source = make_scene(3, suffix=".txt")
    path = source / "sparse/0/images.txt"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith("img_01.png"))
    fields = lines[at].split()
    lines[at] = " ".join([fields[0], quaternion, *fields[5:]])
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SceneError, match=rf"images\.txt.*img_01\.png.*{quaternion}"):
        load_scene(source, SceneConfig())


def test_a_quaternion_that_was_rounded_to_three_digits_is_a_rotation(make_scene):
    source = make_scene(3, suffix=".txt")
    for stem in ("frames", "rigs"):
        (source / "sparse/0" / f"{stem}.txt").unlink(missing_ok=True)
    path = source / "sparse/0/images.txt"
    exact = load_scene(source, SceneConfig())
    lines = path.read_text().splitlines()
    for at, line in enumerate(lines):
        if line.endswith(".png"):
            fields = line.split()
            fields[1:5] = [f"{float(value):.3f}" for value in fields[1:5]]
            lines[at] = " ".join(fields)
    path.write_text("\n".join(lines) + "\n")
    for one, other in zip(load_scene(source, SceneConfig()).train, exact.train, strict=True):
        # half a thousandth in each of four numbers, doubled by the rotation's quadratic terms
        torch.testing.assert_close(one.camera.viewmat, other.camera.viewmat, rtol=0, atol=4e-3)


def test_a_panorama_is_refused_by_name(make_scene):
    with pytest.raises(SceneError, match=r"EQUIRECTANGULAR.*panorama"):
        load_scene(make_scene(2, model="EQUIRECTANGULAR", params=(64.0, 48.0)), SceneConfig())
