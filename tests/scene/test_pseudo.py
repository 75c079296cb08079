"""Pseudo cameras: inside the capture's region, upright, rigid, and looking at what the capture looks at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene import Camera, SceneConfig, View, load_scene
from scene.geometry import focus_point, poses, upright
from scene.pseudo import PseudoCameras

from .test_paths import SETS, forward_facing, orbit

KINDS = ("auto", "box", "orbit", "interpolated")
REAL = {
    "llff_horns": (3, "box"),
    "llff_fern": (6, "box"),
    "fox": (12, "orbit"),
    "bonsai_360": (24, "orbit"),
    "sceaux_castle": (3, "box"),
    "banana": (6, "orbit"),
}


def _views(cameras):
    return [
        View(f"{i}.png", camera, torch.zeros(camera.height, camera.width, 3, dtype=torch.uint8))
        for i, camera in enumerate(cameras)
    ]


def _drawn(views, kind="auto", count=60, points=None, reach=1.0):
    generator = torch.Generator().manual_seed(0)
    source = PseudoCameras(views, kind, points, reach=reach)
    return source, [source.draw(generator) for _ in range(count)]


def _check_rigid(cameras):
    for camera in cameras:
        rotation = camera.viewmat[:3, :3].double()
        assert bool(camera.viewmat.isfinite().all())
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3).double(), atol=1e-5, rtol=0)
        assert float(torch.linalg.det(rotation)) > 0.99  # not mirrored
        assert camera.viewmat[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_capture_gives_rigid_cameras(name, kind):
    _, cameras = _drawn(_views(SETS[name]), kind, 20)
    _check_rigid(cameras)


def test_the_kind_goes_by_how_the_cameras_stand():
    assert PseudoCameras(_views(forward_facing())).kind == "box"
    assert PseudoCameras(_views(orbit())).kind == "orbit"
    for name in ("outward", "one", "two", "equal"):
        assert PseudoCameras(_views(SETS[name])).kind == "interpolated", name


def test_a_seed_gives_the_same_cameras_and_no_two_are_equal():
    for kind in KINDS:
        a, b = (_drawn(_views(orbit()), kind, 10)[1] for _ in range(2))
        assert all(torch.equal(x.viewmat, y.viewmat) for x, y in zip(a, b, strict=True))
        assert len({tuple(x.viewmat.flatten().tolist()) for x in a}) == 10


def _check_region(views, cameras, kind):
    """In the training cameras' region, upright as they are, with their subject in the picture."""
    centers, rotations = poses([view.camera for view in views])
    new, turned = poses(cameras)
    reach = np.linalg.norm(centers - centers.mean(0), axis=1).max()
    assert np.linalg.norm(new - centers.mean(0), axis=1).max() <= 1.8 * reach  # corners of a box, noise
    up = upright(rotations)
    own = -rotations[:, :, 1] @ up
    assert (-turned[:, :, 1] @ up).min() > min(own.min(), 0.9) - 0.35, kind
    if kind == "orbit":
        focus = focus_point([view.camera for view in views])
        radii, drawn = (np.linalg.norm(x - focus, axis=1) for x in (centers, new))
        assert drawn.min() > 0.8 * radii.min() and drawn.max() < 1.2 * radii.max()


@pytest.mark.parametrize("kind", ["orbit", "interpolated", "auto"])
def test_orbits_stay_on_the_photographed_part(kind):
    views = _views(SETS["arc"])
    _, cameras = _drawn(views, kind)
    _check_region(views, cameras, kind)


def _scaled(cameras, factor):
    """The same cameras in a scene of other units."""
    scaled = []
    for camera in cameras:
        viewmat = camera.viewmat.clone()
        viewmat[:3, 3] *= factor
        scaled.append(Camera(viewmat, camera.K, camera.width, camera.height))
    return scaled


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e4])
@pytest.mark.parametrize(
    ("name", "kind"), [("arc", "orbit"), ("arc", "interpolated"), ("forward", "box"), ("one", "auto")]
)
def test_units_do_not_matter(name, kind, factor):
    cameras = forward_facing() if name == "forward" else SETS[name]
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 0.2
    if name in ("forward", "one"):  # before these cameras
        centers, rotations = poses(cameras)
        points += torch.from_numpy(centers.mean(0) + 4.0 * rotations[:, :, 2].mean(0)).float()
    _, expected = _drawn(_views(cameras), kind, 20, points)
    _, found = _drawn(_views(_scaled(cameras, factor)), kind, 20, points * factor)
    for a, b in zip(_scaled(expected, factor), found, strict=True):
        torch.testing.assert_close(a.viewmat[:3, :3], b.viewmat[:3, :3], atol=1e-3, rtol=0)
        size = float(a.viewmat[:3, 3].norm())
        torch.testing.assert_close(a.viewmat[:3, 3], b.viewmat[:3, 3], atol=1e-3 * size, rtol=0)


def test_reach_leads_beyond_the_training_cameras():
    views = _views(forward_facing())
    size = [np.ptp(poses(_drawn(views, "box", 400, reach=reach)[1])[0], axis=0) for reach in (1.0, 2.0)]
    np.testing.assert_allclose(size[1], 2.0 * size[0], rtol=1e-4)  # the same numbers, twice as far apart

    views = _views(orbit())
    cameras = [view.camera for view in views]
    focus, up = focus_point(cameras), upright(poses(cameras)[1])
    _, drawn = _drawn(views, "orbit", 400, reach=1.4)
    _check_rigid(drawn)

    def flat(x):
        away = x - focus
        return np.linalg.norm(away - np.outer(away @ up, up), axis=1), away @ up

    (radii, heights), (new, high) = flat(poses(cameras)[0]), flat(poses(drawn)[0])
    assert 0.79 * radii.min() < new.min() < 0.85 * radii.min()  # 400 draws come near the ends, 0.8 and 1.2
    assert 1.15 * radii.max() < new.max() < 1.21 * radii.max()
    assert heights.min() - 0.2 * radii.max() < high.min() < heights.min() - 0.15 * radii.max()


@pytest.mark.parametrize("name", REAL)
def test_real_captures(shared_scenes, name):
    n, expected = REAL[name]
    scene = load_scene(shared_scenes / name, SceneConfig(eval=True, n_views=n, resolution=8))
    source, cameras = _drawn(scene.train, "auto", 100, scene.points.xyz)
    assert source.kind == expected
    for kind in KINDS:
        _, cameras = _drawn(scene.train, kind, 100, scene.points.xyz)
        _check_rigid(cameras)
        if kind in ("auto", expected):
            _check_region(scene.train, cameras, source.kind if kind == "auto" else kind)
            # new pictures show what the old ones show
            seen = [_share_inside(camera, scene.points.xyz) for camera in cameras]
            own = [_share_inside(view.camera, scene.points.xyz) for view in scene.train]
            assert min(seen) > 0.4 * min(own), kind


def _share_inside(camera, xyz):
    local = xyz @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixel = local @ camera.K.T
    at = pixel[:, :2] / pixel[:, 2:]
    inside = (local[:, 2] > 0) & (at > 0).all(1) & (at[:, 0] < camera.width) & (at[:, 1] < camera.height)
    return float(inside.float().mean())
