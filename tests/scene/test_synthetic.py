"""The synthetic scene is a true scene: depth, points, observations and cameras tell one story."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pycolmap
import pytest

from scene import SceneConfig, load_scene
from scene.synthetic import write_synthetic_scene
from scene.synthetic.shapes import Box, Cylinder, Ellipsoid, Solid, Torus
from scene.synthetic.textures import Finish
from scene.synthetic.world import World

WIDTH, HEIGHT, VIEWS = 128, 96, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic_scene(path, n_views=VIEWS, width=WIDTH, height=HEIGHT, points=400)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return pycolmap.Reconstruction(str(folder / "sparse" / "0"))


def _picture(folder, name):
    """[H, W, 3] RGB, float."""
    return np.asarray(cv2.imread(str(folder / "images" / name)))[..., ::-1].astype(float)


def _depth(folder, name):
    return np.load(folder / "depth" / f"{name.removesuffix('.png')}.npy")


def _project(model, image, xyz):
    """Pixel positions [P, 2] and camera z [P]."""
    pose = image.cam_from_world()
    local = xyz @ pose.rotation.matrix().T + pose.translation
    fx, fy, cx, cy = model.cameras[image.camera_id].params
    return local[:, :2] / local[:, 2:] * [fx, fy] + [cx, cy], local[:, 2]


def test_colmap_reads_the_model_and_every_image_has_its_picture_and_depth(folder, model):
    assert model.num_reg_images() == VIEWS
    assert [camera.model.name for camera in model.cameras.values()] == ["PINHOLE"]
    for image in model.images.values():
        assert _picture(folder, image.name).shape == (HEIGHT, WIDTH, 3)
        depth = _depth(folder, image.name)
        assert depth.shape == (HEIGHT, WIDTH) and depth.dtype == np.float32
        assert (depth > 0.5).all() and (depth < 7).all()  # a room of 5.5 m: every ray meets something near


def test_the_scene_room_loads_it_with_a_held_out_view_and_points(folder):
    scene = load_scene(folder, SceneConfig(eval=True))
    assert [view.name for view in scene.test] == ["view_000.png"]
    assert len(scene.train) == VIEWS - 1
    assert len(scene.points) > 100


def test_points_project_onto_their_observations(model):
    errors = []
    for image in model.images.values():
        seen = [p for p in image.points2D if p.has_point3D()]
        xyz = np.array([model.points3D[p.point3D_id].xyz for p in seen])
        spots, z = _project(model, image, xyz)
        assert (z > 0).all()
        errors.append(np.linalg.norm(spots - [p.xy for p in seen], axis=1))
    error = np.concatenate(errors)
    assert len(error) > 500
    # position noise 0.3 px and observation noise 0.2 px per axis: 0.45 px on average; 3 px is 6 sigma
    assert error.mean() < 0.7 and error.max() < 3.0


def test_points_lie_on_the_surface_that_the_depth_maps_show(folder, model):
    off = []
    for image in model.images.values():
        seen = [p for p in image.points2D if p.has_point3D()]
        xyz = np.array([model.points3D[p.point3D_id].xyz for p in seen])
        spots, z = _project(model, image, xyz)
        x, y = np.floor(spots).astype(int).T
        off.append(np.abs(_depth(folder, image.name)[y, x] / z - 1))
    part = np.concatenate(off)
    # within half a pixel, a slanted surface moves by percents, and points at an edge see past it
    assert np.median(part) < 0.01 and np.mean(part < 0.05) > 0.85


def test_points_have_the_colour_that_their_pictures_show(folder, model):
    differences = []
    for image in model.images.values():
        picture = _picture(folder, image.name)
        for p in image.points2D:
            if p.has_point3D():
                x, y = np.floor(p.xy).astype(int)
                differences.append(np.abs(picture[y, x] - model.points3D[p.point3D_id].color).mean())
    # half a pixel off in strong texture: tens of grey levels; unrelated pixels differ by about 65
    assert np.median(differences) < 25


def test_every_point_is_seen_twice_and_no_track_names_an_image_twice(model):
    for point in model.points3D.values():
        images = [element.image_id for element in point.track.elements]
        assert len(set(images)) == len(images) >= 2


def test_depth_maps_agree_between_views(folder, model):
    images = list(model.images.values())
    agreeing = total = 0
    for a, b in [(images[2], images[3]), (images[4], images[3])]:
        depth_a, depth_b = _depth(folder, a.name), _depth(folder, b.name)
        fx, fy, cx, cy = model.cameras[1].params
        y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
        local = np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)], -1).reshape(-1, 3)
        local = local * depth_a.reshape(-1, 1)
        pose = a.cam_from_world().inverse()
        spots, z = _project(model, b, local @ pose.rotation.matrix().T + pose.translation)
        inside = (z > 0) & (spots >= 1).all(1) & (spots < [WIDTH - 1, HEIGHT - 1]).all(1)
        i, j = np.floor(spots[inside]).astype(int).T
        around = np.stack([depth_b[j + v, i + u] for u in (-1, 0, 1) for v in (-1, 0, 1)])
        # seen at the same depth, or hidden by something nearer; never floating in front of everything.
        # 2 %: how far depth moves within the 3x3 pixels on steep surfaces
        z = z[inside]
        agreeing += np.sum(z > around.min(0) * 0.98)
        total += len(z)
        assert np.mean((z > around.min(0) * 0.98) & (z < around.max(0) * 1.02)) > 0.75
    assert agreeing / total > 0.995


def test_depth_has_real_discontinuities_and_pictures_have_texture(folder, model):
    for image in model.images.values():
        depth = _depth(folder, image.name)
        jumps = np.abs(np.diff(depth, axis=1)) > 0.1 * depth[:, 1:]
        assert jumps.sum() > HEIGHT  # more than one full-height edge
        grey = _picture(folder, image.name).mean(2)
        assert grey.std() > 25 and 60 < grey.mean() < 190
        blocks = grey[: HEIGHT // 16 * 16, : WIDTH // 16 * 16].reshape(HEIGHT // 16, 16, WIDTH // 16, 16)
        assert np.quantile(blocks.std((1, 3)), 0.05) > 2  # hardly any 16x16 block is plain


def test_equal_seeds_give_equal_files_and_other_seeds_others(tmp_path):
    def digest(name, seed):
        write_synthetic_scene(tmp_path / name, n_views=2, width=32, height=24, seed=seed, points=40)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).digest() for p in files}

    first = digest("a", 0)
    assert first == digest("b", 0)
    other = digest("c", 1)
    assert first.keys() == other.keys()
    assert first["images/view_000.png"] != other["images/view_000.png"]


def test_too_few_views_are_refused(tmp_path):
    with pytest.raises(ValueError, match="n_views"):
        write_synthetic_scene(tmp_path, n_views=1)


@pytest.mark.parametrize(
    "shape", [Box((0.5, 0.3, 0.2)), Ellipsoid((0.5, 0.3, 0.02)), Cylinder(0.3, 0.4), Torus(0.4, 0.1)]
)
def test_rays_meet_shapes_on_their_surface_and_charts_invert(shape):
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    solid = Solid(shape, Finish(lambda p: p), np.array([[1.0], [2.0], [3.0]], np.float32), axes)
    o = rng.normal(size=(3, 4000)).astype(np.float32)
    o = solid.center + 2.5 * o / np.linalg.norm(o, axis=0)
    target = solid.center + rng.uniform(-0.5, 0.5, (3, 4000)).astype(np.float32)
    d = (target - o) / np.linalg.norm(target - o, axis=0)
    t, hit = World([[solid]], -o.max(1, keepdims=True), o.max(1, keepdims=True)).cast(o, d)
    assert 200 < (hit == 0).sum() < 4000
    o, d, t = o[:, hit == 0], d[:, hit == 0], t[hit == 0]
    local = solid.to_local(o + d * t)
    chart, u, v = shape.chart(local)
    for k in range(shape.charts):
        mine = chart == k
        # float32 at a few metres: 1e-6; arccos at the poles of a flat ellipsoid costs 1e-3
        np.testing.assert_allclose(shape.place(k, u[mine], v[mine]), local[:, mine], atol=2e-3)
    facing = (shape.normal(local) * (axes.T @ d)).sum(0)
    assert np.mean(facing < 1e-3) > 0.999  # surfaces are entered from outside
