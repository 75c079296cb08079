"""transforms.json scenes: axes, lenses, alpha, points, and JSON that is wrong."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from scene import SceneConfig, SceneError, load_scene


def _weight(view):
    weight = view.weight()
    assert weight is not None
    return weight


def _pose(k=0):
    """Camera-to-world with OpenGL axes, standing at (k, 0, 4) and looking down -z."""
    pose = np.eye(4)
    pose[:3, 3] = [k, 0.0, 4.0]
    return pose


def _write(folder, frames=3, file="transforms.json", prefix="images/", ending=".png", drop=(), **header):
    entries = []
    for k in range(frames):
        name = f"{prefix}f_{k}"
        path = folder / f"{name}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            cv2.imwrite(str(path), np.full((48, 64, 3), 10 * k, np.uint8))
        entries.append({"file_path": f"./{name}{ending}", "transform_matrix": _pose(k).tolist()})
    content = {
        "fl_x": 50.0,
        "fl_y": 52.0,
        "cx": 31.0,
        "cy": 25.0,
        "w": 64,
        "h": 48,
        **header,
        "frames": entries,
    }
    for key in drop:
        del content[key]
    (folder / file).write_text(json.dumps(content))
    return folder


def test_opengl_poses_become_opencv_world_to_camera(tmp_path):
    view = load_scene(_write(tmp_path), SceneConfig()).train[2]
    assert view.name == "images/f_2.png" and view.stem == "images__f_2"
    assert view.camera.K.tolist() == [[50, 0, 31], [0, 52, 25], [0, 0, 1]]
    assert view.camera.center.tolist() == [2, 0, 4]
    # the origin lies 4 in front and 2 to the left; a point above it has a smaller row (y down)
    assert (view.camera.viewmat @ torch.tensor([0.0, 0, 0, 1])).tolist() == [-2, 0, 4, 1]
    assert (view.camera.viewmat @ torch.tensor([0.0, 1, 0, 1])).tolist() == [-2, -1, 4, 1]


def test_a_frame_may_bring_its_own_intrinsics(tmp_path):
    _write(tmp_path)
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][1]["fl_x"] = 77.0
    path.write_text(json.dumps(content))
    focal = [float(view.camera.K[0, 0]) for view in load_scene(tmp_path, SceneConfig()).train]
    assert focal == [50, 77, 50]


@pytest.mark.parametrize(
    ("header", "bends"),
    [
        ({"k1": -0.2, "k2": 0.03, "p1": 0.002, "p2": 0.001}, True),
        ({"k1": 0.02, "camera_model": "OPENCV_FISHEYE"}, True),
        ({"is_fisheye": True}, True),
        ({"k1": 0.0, "k2": 0.0}, False),
        ({"k1": 0.5, "camera_model": "PINHOLE"}, False),
    ],
)
def test_distortion_is_removed(tmp_path, header, bends):
    view = load_scene(_write(tmp_path, **header), SceneConfig()).train[0]
    assert (view.camera.K.tolist() != [[50, 0, 31], [0, 52, 25], [0, 0, 1]]) == bends
    assert view.mask is None


@pytest.mark.parametrize("key", ["camera_angle_x", "camera_angle_y"])
@pytest.mark.parametrize("angle", [5e-324, 1e-30, 3.2])
def test_an_angle_that_no_lens_has_is_refused(tmp_path, key, angle):
    """Half of the smallest number is 0, and so is its tangent."""
    folder = _write(
        tmp_path, drop=("fl_x", "fl_y", "cx", "cy", "w", "h"), **({"camera_angle_x": 0.7} | {key: angle})
    )
    with pytest.raises(SceneError, match=f"{key}: expected an angle from 1e-06 to below pi"):
        load_scene(folder, SceneConfig())


def test_instant_ngp_angles_and_missing_extensions_work(tmp_path):
    folder = _write(tmp_path, drop=("fl_x", "fl_y", "cx", "cy", "w", "h"), camera_angle_x=2 * np.arctan(0.5))
    path = folder / "transforms.json"
    path.write_text(path.read_text().replace('.png"', '"'))
    view = load_scene(folder, SceneConfig()).train[0]
    expected = torch.tensor([[64.0, 0, 32], [0, 64, 24], [0, 0, 1]])  # 64 / (2 * 0.5)
    torch.testing.assert_close(view.camera.K, expected)
    assert view.name == "images/f_0"


def _blender(folder):
    for part, count in (("train", 9), ("test", 4)):
        (folder / part).mkdir()
        for k in range(count):
            rgba = np.full((20, 20, 4), 100, np.uint8)
            rgba[:, :10, 3], rgba[:, 10:, 3] = 255, 0
            cv2.imwrite(str(folder / f"{part}/f_{k}.png"), rgba)
        drop = ("fl_x", "fl_y", "cx", "cy", "w", "h")
        _write(folder, count, f"transforms_{part}.json", f"{part}/", drop=drop, camera_angle_x=0.7)
        path = folder / f"transforms_{part}.json"
        path.write_text(path.read_text().replace('.png"', '"'))
    return folder


def test_a_blender_scene_holds_out_its_test_file(tmp_path):
    scene = load_scene(_blender(tmp_path), SceneConfig(eval=True))
    assert len(scene.train) == 9 and [view.name for view in scene.test] == [f"test/f_{k}" for k in range(4)]
    assert len(scene.points) == 0 and scene.extent > 0
    few = load_scene(tmp_path, SceneConfig(eval=True, n_views=3))
    assert [view.name for view in few.train] == ["train/f_0", "train/f_4", "train/f_8"] and len(few.test) == 4
    assert len(load_scene(tmp_path, SceneConfig()).train) == 13


def test_a_blender_scene_without_a_test_file_holds_out_every_nth(tmp_path):
    (_blender(tmp_path) / "transforms_test.json").unlink()
    scene = load_scene(tmp_path, SceneConfig(eval=True))
    assert [view.name for view in scene.test] == ["train/f_0", "train/f_8"] and len(scene.train) == 7


def test_alpha_of_a_blender_scene_is_background_unless_told_otherwise(tmp_path):
    view = load_scene(_blender(tmp_path), SceneConfig()).train[0]
    assert view.mask is None and view.alpha is not None
    assert view.image(torch.ones(3))[:, 10:].eq(1).all() and view.image()[:, 10:].eq(0).all()
    masked = load_scene(tmp_path, SceneConfig(alpha_mode="mask")).train[0]
    assert masked.alpha is None and _weight(masked)[:, 10:].eq(0).all()


def test_reduced_folders_and_other_folders_replace_the_named_one(tmp_path):
    _write(tmp_path)
    for k in range(3):
        (tmp_path / "images_2").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images_2/f_{k}.jpg"), np.full((24, 32, 3), 99, np.uint8))
    for config in (SceneConfig(resolution=2), SceneConfig(images="images_2")):
        view = load_scene(tmp_path, config).train[0]
        assert (view.camera.width, view.camera.height) == (32, 24) and view.camera.K[0, 0] == 25
        assert abs(int(view.pixels[0, 0, 0]) - 99) <= 1  # JPEG
    assert load_scene(tmp_path, SceneConfig(resolution=4)).train[0].camera.width == 16


def test_masks_named_by_frames_or_lying_in_a_folder_are_used(tmp_path):
    _write(tmp_path)
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    (tmp_path / "masks").mkdir()
    for k in range(3):
        cv2.imwrite(str(tmp_path / f"masks/f_{k}.png"), mask)
    assert _weight(load_scene(tmp_path, SceneConfig()).train[0])[:, 32:].eq(0).all()
    cv2.imwrite(str(tmp_path / "own.png"), 255 - mask)
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][0]["mask_path"] = "own.png"
    path.write_text(json.dumps(content))
    views = load_scene(tmp_path, SceneConfig()).train
    assert _weight(views[0])[:, :32].eq(0).all() and _weight(views[1])[:, 32:].eq(0).all()


def test_the_named_point_cloud_is_read(tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 2\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue"))
    (tmp_path / "points.ply").write_text(header + "end_header\n1 2 3 255 0 51\n4 5 6 0 0 0\n")
    scene = load_scene(_write(tmp_path, ply_file_path="points.ply"), SceneConfig())
    assert scene.points.xyz.tolist() == [[1, 2, 3], [4, 5, 6]]
    torch.testing.assert_close(scene.points.rgb[0], torch.tensor([1.0, 0.0, 0.2]))  # float32
    for damaged in ("1 2", "1 2 3 256 0 51\n4 5 6 0 0 0\n", f"1 2 3 {'9' * 30} 0 51\n4 5 6 0 0 0\n"):
        (tmp_path / "points.ply").write_text(header + "end_header\n" + damaged)
        with pytest.raises(SceneError, match=r"points\.ply"):
            load_scene(tmp_path, SceneConfig())
    (tmp_path / "points.ply").unlink()
    assert len(load_scene(tmp_path, SceneConfig()).points) == 0


def _matrix(edit):
    pose = _pose()
    edit(pose)
    return pose.tolist()


WRONG_FRAMES = {
    "file_path": [3, None, "../x.png", "/x.png", ""],
    "transform_matrix": [
        None,
        "text",
        [[1, 2], [3, 4]],
        [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
        np.zeros((4, 4)).tolist(),
        (2 * np.eye(4)).tolist(),
        _matrix(lambda m: m.__setitem__((0, 3), float("nan"))),
        _matrix(lambda m: m.__setitem__((0, 0), float("inf"))),
        _matrix(lambda m: m.__setitem__((0, 0), -1.0)),  # a mirror image
        _pose(3).T.tolist(),  # transposed: the position stands in the last row
    ],
    "w": [0, -4, 2.5, "64", True, 1e400],
    "fl_x": [0, -1.0, float("nan"), None, [50]],
    "camera_model": ["EQUIRECTANGULAR", 5],
    "k1": ["a", float("inf")],
    "mask_path": ["nowhere.png", "../m.png"],
}


@pytest.mark.parametrize(("key", "value"), [(key, v) for key, values in WRONG_FRAMES.items() for v in values])
def test_a_wrong_value_names_the_file_the_frame_and_the_key(tmp_path, key, value):
    _write(tmp_path)
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"][1][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(SceneError) as error:
        load_scene(tmp_path, SceneConfig())
    message = str(error.value)
    assert "transforms.json: frames[1]" in message and key in message and "\n" not in message


@pytest.mark.parametrize("key", ["frames", "fl_x", "w", "h"])
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(SceneError) as error:
        load_scene(_write(tmp_path, drop=(key,)), SceneConfig())
    assert "transforms.json" in str(error.value) and ("camera_angle_x" if key == "fl_x" else key) in str(
        error.value
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"frames": []}', '{"frames": 5}', '{"frames": [4]}', "\xff\xfe"]
)
def test_text_that_is_no_scene_is_refused(tmp_path, text):
    (tmp_path / "transforms.json").write_text(text, encoding="latin-1")
    with pytest.raises(SceneError, match=r"transforms\.json"):
        load_scene(tmp_path, SceneConfig())


def test_a_missing_image_of_a_json_scene_is_listed(tmp_path):
    _write(tmp_path)
    (tmp_path / "images/f_1.png").unlink()
    with pytest.raises(SceneError, match=r"1 of 3 images.*images/f_1\.png"):
        load_scene(tmp_path, SceneConfig())
    assert len(load_scene(tmp_path, SceneConfig(skip_missing=True)).train) == 2


def test_a_colmap_model_goes_before_a_json_file(make_scene):
    source = make_scene(3)
    _write(source, frames=2)
    assert len(load_scene(source, SceneConfig()).train) == 3
