"""Camera, View, Points, the sampler, and cameras.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scene import (
    Camera,
    Points,
    Scene,
    SceneConfig,
    SceneError,
    View,
    ViewSampler,
    load_scene,
    read_cameras_json,
    weighted_view,
    write_cameras_json,
)


def _camera(width=8, height=6):
    angle = torch.tensor(0.3)
    viewmat = torch.eye(4)
    viewmat[0, 0] = viewmat[2, 2] = angle.cos()
    viewmat[0, 2], viewmat[2, 0] = angle.sin(), -angle.sin()
    viewmat[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
    return Camera(viewmat, torch.tensor([[10.0, 0, 3.5], [0, 11.0, 2.5], [0, 0, 1]]), width, height)


def test_the_center_is_the_point_that_the_camera_maps_to_zero():
    camera = _camera()
    local = camera.viewmat @ torch.cat([camera.center, torch.ones(1)])
    torch.testing.assert_close(local[:3], torch.zeros(3), rtol=0, atol=1e-6)  # float32 at magnitude 3


def test_resizing_scales_each_axis_and_back_again():
    camera = _camera()
    small = camera.resized(4, 2)
    assert small.K.tolist() == [[5, 0, 1.75], [0, 11 / 3, 2.5 / 3], [0, 0, 1]] or torch.allclose(
        small.K, torch.tensor([[5, 0, 1.75], [0, 11 / 3, 2.5 / 3], [0, 0, 1]])
    )
    torch.testing.assert_close(small.resized(8, 6).K, camera.K)


@pytest.mark.parametrize(
    "arguments",
    [
        (torch.eye(3), torch.eye(3), 8, 6),
        (torch.eye(4), torch.eye(4), 8, 6),
        (torch.eye(4), torch.eye(3), 0, 6),
    ],
)
def test_cameras_of_wrong_shapes_fail_where_they_are_made(arguments):
    with pytest.raises(ValueError, match="expected"):
        Camera(*arguments)


def test_views_and_points_of_wrong_shapes_fail_where_they_are_made():
    pixels = torch.zeros(6, 8, 3, dtype=torch.uint8)
    View("a.png", _camera(), pixels)
    with pytest.raises(ValueError, match=r"a\.png: pixels"):
        View("a.png", _camera(), pixels.float())
    with pytest.raises(ValueError, match="mask"):
        View("a.png", _camera(), pixels, mask=pixels[..., 0].T)
    with pytest.raises(ValueError, match="points"):
        Points(torch.zeros(3, 3), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.jpg", "a"), ("a/b.JPG", "a__b"), ("r_0.5", "r_0.5"), ("x.tar.png", "x.tar"), ("a\\b.png", "a__b")],
)
def test_stems_are_flat_and_lose_only_image_endings(name, stem):
    assert View(name, _camera(), torch.zeros(6, 8, 3, dtype=torch.uint8)).stem == stem


def test_the_fingerprint_is_the_same_whenever_and_wherever_a_scene_is_loaded(make_scene):
    source = make_scene(17)
    first = load_scene(source, SceneConfig()).fingerprint()
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert load_scene(source, SceneConfig()).fingerprint() == first
    assert load_scene(source.rename(source.with_name("moved")), SceneConfig()).fingerprint() == first
    code = (
        "import sys, pathlib; from scene import SceneConfig, load_scene;"
        "print(load_scene(pathlib.Path(sys.argv[1]), SceneConfig()).fingerprint())"
    )
    command = [sys.executable, "-c", code, str(source.with_name("moved"))]
    root = Path(__file__).parents[2]
    other = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == first


def test_the_fingerprint_tells_sizes_splits_and_scenes_apart(make_scene):
    source = make_scene(17)
    moved = make_scene(17, params=(50.0, 52.0, 31.5, 25.0), folder="moved")
    renamed = make_scene([f"pic_{i:02d}.png" for i in range(17)], folder="renamed")
    found = [
        load_scene(folder, SceneConfig(**options)).fingerprint()
        for folder, options in (
            (source, {}),
            (source, {"resolution": 2}),
            (source, {"eval": True}),
            (source, {"n_views": 3}),
            (source, {"eval": True, "n_views": 3}),
            (moved, {}),
            (renamed, {}),
        )
    ]
    assert len(set(found)) == len(found)


def test_the_fingerprint_sees_a_turned_camera_and_not_a_float_s_rounding():
    def fingerprint(viewmat, K):
        view = View("a.png", Camera(viewmat, K, 8, 6), torch.zeros(6, 8, 3, dtype=torch.uint8))
        points = Points(torch.zeros(0, 3), torch.zeros(0, 3))
        return Scene((view,), (), points, 1.0, Path("x")).fingerprint()

    camera = _camera()
    base = fingerprint(camera.viewmat, camera.K)
    signed = torch.where(camera.viewmat == 0, -0.0, camera.viewmat)
    assert fingerprint(signed, camera.K * (1 + 1e-6)) == base
    assert fingerprint(camera.viewmat + 1e-3, camera.K) != base
    assert fingerprint(camera.viewmat, camera.K + 0.1) != base


def test_moving_a_view_moves_every_tensor():
    ones = torch.ones(6, 8, dtype=torch.uint8)
    moved = View("a.png", _camera(), torch.zeros(6, 8, 3, dtype=torch.uint8), ones, ones).to("meta")
    tensors = (moved.pixels, moved.alpha, moved.mask, moved.camera.viewmat, moved.camera.K)
    assert [tensor is not None and tensor.device.type for tensor in tensors] == ["meta"] * 5


@pytest.mark.parametrize("n", [1, 2, 7])
def test_every_epoch_shows_each_view_once(n):
    sampler = ViewSampler(n, torch.Generator().manual_seed(0))
    for _ in range(4):
        assert sorted(sampler.next() for _ in range(n)) == list(range(n))


def test_epochs_differ_in_order_and_seeds_repeat():
    def epochs(seed):
        sampler = ViewSampler(20, torch.Generator().manual_seed(seed))
        return [[sampler.next() for _ in range(20)] for _ in range(3)]

    first = epochs(1)
    assert first == epochs(1) and first != epochs(2)
    assert first[0] != first[1] and first[0] != list(range(20))


def test_each_view_is_equally_likely_to_come_first():
    generator = torch.Generator().manual_seed(3)
    firsts = np.bincount([ViewSampler(4, generator).next() for _ in range(2000)], minlength=4)
    assert np.abs(firsts - 500).max() < 100  # five standard deviations of a binomial (19.4 each)


@pytest.mark.parametrize("done", [0, 3, 7, 12])
def test_a_restored_sampler_goes_on_as_if_never_stopped(done):
    generator = torch.Generator().manual_seed(5)
    sampler = ViewSampler(7, generator)
    for _ in range(done):
        sampler.next()
    state, random = json.loads(json.dumps(sampler.state_dict())), generator.get_state()
    expected = [sampler.next() for _ in range(20)]
    resumed_generator = torch.Generator()
    resumed_generator.set_state(random)
    resumed = ViewSampler(7, resumed_generator)
    resumed.load_state_dict(state)
    assert [resumed.next() for _ in range(20)] == expected


def test_a_sampler_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        ViewSampler(0, torch.Generator())
    sampler = ViewSampler(3, torch.Generator())
    for state in ({"n": 4, "stack": []}, {"n": 3, "stack": [3]}, {"n": 3, "stack": [1, 1]}):
        with pytest.raises(ValueError, match="sampler state"):
            sampler.load_state_dict(state)


def test_cameras_json_round_trips_and_has_the_familys_keys(make_scene, tmp_path):
    scene = load_scene(make_scene(3), SceneConfig())
    path = tmp_path / "cameras.json"
    write_cameras_json(path, scene.train)
    entries = json.loads(path.read_text())
    family = {"id", "img_name", "width", "height", "position", "rotation", "fy", "fx"}
    assert family <= set(entries[0]) and [entry["id"] for entry in entries] == [0, 1, 2]
    # rotation is camera-to-world and position the camera's place: the point one unit ahead is in front
    ahead = np.array(entries[1]["position"]) + np.array(entries[1]["rotation"])[:, 2]
    local = scene.train[1].camera.viewmat @ torch.tensor([*ahead, 1.0]).float()
    torch.testing.assert_close(local, torch.tensor([0.0, 0, 1, 1]), rtol=0, atol=1e-5)  # float32
    read = read_cameras_json(path)
    for view, named in zip(scene.train, read, strict=True):
        assert named.name == view.name and (named.camera.width, named.camera.height) == (64, 48)
        torch.testing.assert_close(named.camera.viewmat, view.camera.viewmat, rtol=0, atol=1e-5)
        assert torch.equal(named.camera.K, view.camera.K)
    assert list(tmp_path.glob(".cameras*")) == []


def test_cameras_json_of_other_programs_has_a_central_principal_point(tmp_path):
    entry = {"id": 0, "img_name": "a", "width": 8, "height": 6, "position": [1, 2, 3], "fy": 5.0, "fx": 4.0}
    entry["rotation"] = np.eye(3).tolist()
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([entry]))
    (named,) = read_cameras_json(path)
    assert named.camera.K.tolist() == [[4, 0, 4], [0, 5, 3], [0, 0, 1]]
    assert named.camera.center.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rotation", [[1, 0], [0, 1]]),
        ("rotation", np.zeros((3, 3)).tolist()),
        ("fx", 0),
        ("width", "8"),
        ("position", None),
        ("position", [0, 0, 1e39]),
        ("position", [0, 0, 10**400]),
    ],
)
def test_a_wrong_cameras_json_names_entry_and_key(tmp_path, key, value):
    entry = {
        "width": 8,
        "height": 6,
        "position": [1, 2, 3],
        "fy": 5.0,
        "fx": 4.0,
        "rotation": np.eye(3).tolist(),
    }
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([entry | {key: value}]))
    with pytest.raises(SceneError, match=rf"cameras\.json: \[0\]: {key}"):
        read_cameras_json(path)


def test_a_focal_length_that_float32_rounds_to_nothing_is_refused(tmp_path):
    entry = {"width": 8, "height": 6, "position": [1, 2, 3], "fy": 5.0, "fx": 1e-60}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([entry | {"rotation": np.eye(3).tolist()}]))
    with pytest.raises(SceneError, match=r"\[0\]: position, fx, fy, cx, cy: expected numbers that float32"):
        read_cameras_json(path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", f'[{{"width": {"9" * 5000}}}]', "[" * 9000])
def test_text_that_is_no_camera_list_is_refused(tmp_path, text):
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(SceneError, match=r"cameras\.json"):
        read_cameras_json(tmp_path / "cameras.json")
    with pytest.raises(SceneError, match="no such file"):
        read_cameras_json(tmp_path / "other.json")


def test_confidence_is_relative_so_that_a_small_one_everywhere_changes_nothing():
    width, height = 8, 6
    view = View("a.png", _camera(), torch.zeros(height, width, 3, dtype=torch.uint8))
    for level in (1.0, 0.3, 1e-3, 1e-6):
        assert weighted_view(view, torch.full((height, width), level)) is view
    half = torch.full((height, width), 2e-3)
    half[0] = 1e-3
    mask = weighted_view(view, half).mask
    assert mask is not None and mask[0].unique().tolist() == [128] and mask[1:].unique().tolist() == [255]
    nothing = weighted_view(view, torch.zeros(height, width)).mask
    assert nothing is not None and not bool(nothing.any())


def _plain(pixels, *, mask=None, alpha=None):
    camera = Camera(torch.eye(4), torch.eye(3), pixels.shape[1], pixels.shape[0])
    return View("a.png", camera, pixels, alpha, mask)


def test_the_mean_colour_is_that_of_all_pixels_that_count():
    g = torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (6, 7 + i, 3), generator=g, dtype=torch.uint8) for i in range(2)]
    mask = (torch.rand(6, 7, generator=g) < 0.5).to(torch.uint8) * 255
    views = (_plain(pixels[0], mask=mask), _plain(pixels[1]))
    counted = torch.cat([pixels[0][mask > 0], pixels[1].reshape(-1, 3)]).double()
    scene = Scene(views, (), Points.none(), 1.0, Path())
    torch.testing.assert_close(scene.mean_colour, (counted.mean(0) / 255.0).float())
    nothing = Scene((_plain(pixels[0], mask=torch.zeros_like(mask)),), (), Points.none(), 1.0, Path())
    assert nothing.mean_colour.tolist() == [0.0, 0.0, 0.0]


def test_transparent_photographs_stand_before_black():
    pixels = torch.full((4, 5, 3), 200, dtype=torch.uint8)
    views = (_plain(pixels), _plain(pixels, alpha=torch.zeros(4, 5, dtype=torch.uint8)))
    assert Scene(views, (), Points.none(), 1.0, Path()).mean_colour.tolist() == [0.0, 0.0, 0.0]


def test_checksums_tell_whose_pixels_alpha_or_mask_have_changed():
    zeros, ones = torch.zeros(6, 8, dtype=torch.uint8), torch.ones(6, 8, dtype=torch.uint8)
    pixels = torch.zeros(6, 8, 3, dtype=torch.uint8)

    def checksums(*views):
        return Scene(views, (), Points(torch.zeros(0, 3), torch.zeros(0, 3)), 1.0, Path("x")).checksums

    a, b = View("a.png", _camera(), pixels, zeros, zeros), View("b.png", _camera(), pixels)
    base = checksums(a, b)
    assert list(base) == ["a.png", "b.png"] and checksums(b, a) == base
    for other in (
        View("a.png", _camera(), pixels + 1, zeros, zeros),
        View("a.png", _camera(), pixels, ones, zeros),
        View("a.png", _camera(), pixels, zeros, ones),
    ):
        found = checksums(other, b)
        assert found["a.png"] != base["a.png"] and found["b.png"] == base["b.png"]
