"""Camera paths are rigid, upright and where the capture was, whatever the cameras are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene.camera import Camera
from scene.paths import (
    default_path,
    ellipse_path,
    focus_point,
    interpolated_path,
    is_forward_facing,
    looks_inward,
    spiral_path,
)

UP = np.array([0.1, 0.2, 1.0]) / np.linalg.norm([0.1, 0.2, 1.0])
PATHS = {"spiral": spiral_path, "ellipse": ellipse_path, "interpolated": interpolated_path}


def look_at(center, target, up=UP, focal=100.0):
    center, target = np.asarray(center, float), np.asarray(target, float)
    z = (target - center) / np.linalg.norm(target - center)
    x = np.cross(z, up) / np.linalg.norm(np.cross(z, up))
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([x, np.cross(z, x), z])
    viewmat[:3, 3] = -viewmat[:3, :3] @ center
    K = torch.tensor([[focal, 0, 32.0], [0, focal, 24.0], [0, 0, 1]])
    return Camera(torch.from_numpy(viewmat).float(), K, 64, 48)


def frame(angle, radius=3.0, height=1.0):
    """A position on a circle about UP, and the circle's axis as up."""
    e1 = np.cross(UP, [1.0, 0, 0]) / np.linalg.norm(np.cross(UP, [1.0, 0, 0]))
    return radius * (np.cos(angle) * e1 + np.sin(angle) * np.cross(UP, e1)) + height * UP


def orbit(start=0.0, end=2 * np.pi, n=24):
    angles = np.linspace(start, end, n, endpoint=False)
    return [look_at(frame(a, height=1.0 + 0.3 * np.sin(3 * a)), [0, 0, 0]) for a in angles]


def forward_facing(n=12, target=(0, 0, 0)):
    rng = np.random.default_rng(0)
    return [look_at(np.array([0, -5.0, 0]) + 0.4 * rng.normal(size=3), target) for _ in range(n)]


def outward(n=12):
    return [look_at([0, 0, 0], frame(a)) for a in np.linspace(0, 2 * np.pi, n, endpoint=False)]


ONE = look_at([0, -5, 1], [0, 0, 0])
SETS = {
    "orbit": orbit(),
    "arc": orbit(0.3, 2.0, 9),
    "forward": forward_facing(),
    "outward": outward(),
    "one": [ONE],
    "equal": [ONE] * 5,
    "two": [ONE, look_at([1, -5, 1], [0, 0, 0])],
    "opposite": [look_at([0, -5, 0], [0, 0, 0]), look_at([0, 5, 0], [0, 0, 0])],
    "in a row, parallel": [look_at([x, -5, 0], [x, 0, 0]) for x in np.linspace(-1, 1, 7)],
    "in a row, ahead": [look_at([0, y, 0], [0, 10, 0]) for y in np.linspace(-1, 1, 7)],
    "straight down": [look_at([x, 0, 5], [x, 0, 0], up=[0, 1.0, 0]) for x in (0.0, 0.5, 1.0)],
    "far from the origin": [look_at(np.array([x, 1e4, 0]), [0, 1e4 + 5, 0]) for x in (0.0, 0.5, 1.0)],
    "with a duplicate": [ONE, ONE, *forward_facing(3)],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("path", [*PATHS, "default"])
def test_every_path_of_every_capture_is_rigid(name, path):
    cameras = SETS[name]
    made = default_path(cameras, 13)[1] if path == "default" else PATHS[path](cameras, 13)
    assert len(made) == 13
    for camera in made:
        rotation = camera.viewmat[:3, :3].double()
        assert torch.isfinite(camera.viewmat).all()
        # float32 entries
        assert torch.allclose(rotation @ rotation.T, torch.eye(3).double(), atol=1e-5)
        assert torch.linalg.det(rotation) > 0
        assert (camera.width, camera.height) == (64, 48) and torch.equal(camera.K, cameras[0].K)


def test_the_capture_decides_the_path():
    assert is_forward_facing(SETS["forward"]) and not is_forward_facing(SETS["orbit"])
    assert is_forward_facing([ONE])
    assert looks_inward(SETS["orbit"]) and not looks_inward(SETS["outward"])
    kinds = {name: default_path(SETS[name], 2)[0] for name in ("orbit", "arc", "forward", "outward")}
    assert kinds == {"orbit": "ellipse", "arc": "ellipse", "forward": "spiral", "outward": "interpolated"}


def test_the_focus_is_where_the_axes_meet():
    target = [0.3, -0.2, 0.5]
    cameras = [look_at(frame(a), target) for a in (0.0, 1.0, 2.0, 4.0)]
    # float32 poses at distance 3
    np.testing.assert_allclose(focus_point(cameras), target, atol=1e-5)


def test_the_focus_of_parallel_axes_is_ahead_at_the_depth_of_the_points():
    cameras = SETS["in a row, parallel"]
    points = torch.tensor([[x, 3.0, z] for x in (-0.5, 0.0, 0.5) for z in (-0.2, 0.2)])
    # cameras stand at y = -5
    np.testing.assert_allclose(focus_point(cameras, points=points), [0, 3, 0], atol=1e-4)
    assert focus_point(cameras)[1] > -5
    assert np.isfinite(focus_point([ONE] * 3)).all()


@pytest.mark.parametrize("name", ["orbit", "arc"])
def test_an_ellipse_stays_upright_at_the_cameras_distance_and_looks_at_the_focus(name):
    cameras = SETS[name]
    for camera in ellipse_path(cameras, 30):
        center = camera.center.double().numpy()
        axis = camera.viewmat[2, :3].double().numpy()
        right = camera.viewmat[0, :3].double().numpy()
        assert np.linalg.norm(np.cross(axis, -center)) < 0.05 * np.linalg.norm(center)
        # up is estimated from upright cameras: within a degree or two
        assert abs(right @ UP) < 0.03
        assert -camera.viewmat[1, :3].double().numpy() @ UP > 0.5
        flat = np.linalg.norm(center - (center @ UP) * UP)
        assert 2.8 < flat < 3.2 and 0.5 < center @ UP < 1.5


def test_an_arc_is_not_left_by_its_ellipse():
    cameras = SETS["arc"]
    centers = np.stack([camera.center.numpy() for camera in cameras])
    for camera in ellipse_path(cameras, 40):
        nearest = np.linalg.norm(centers - camera.center.numpy(), axis=1).min()
        assert nearest < 0.9  # cameras of the arc stand 0.6 apart, heights swing by 0.3


def test_a_full_orbit_is_closed_and_goes_all_the_way_round():
    path = ellipse_path(SETS["orbit"], 60)
    centers = np.stack([camera.center.numpy() for camera in path])
    steps = np.linalg.norm(np.roll(centers, -1, axis=0) - centers, axis=1)
    assert steps.max() < 3 * np.median(steps)
    assert 0.8 * 2 * np.pi * 3 < steps.sum() < 1.2 * 2 * np.pi * 3


def test_a_spiral_stays_among_the_cameras_and_is_closed():
    cameras = SETS["forward"]
    centers = np.stack([camera.center.numpy() for camera in cameras])
    middle, reach = centers.mean(0), np.linalg.norm(centers - centers.mean(0), axis=1).max()
    path = np.stack([camera.center.numpy() for camera in spiral_path(cameras, 80)])
    assert np.linalg.norm(path - middle, axis=1).max() < 1.5 * reach
    steps = np.linalg.norm(np.roll(path, -1, axis=0) - path, axis=1)
    assert 0 < steps.max() < 4 * np.median(steps)


def test_one_camera_still_gives_a_moving_spiral():
    points = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    path = spiral_path([ONE], 20, points=points)
    moved = max(float((camera.center - ONE.center).norm()) for camera in path)
    assert 0.05 < moved < 0.5  # 4 % of a depth of 5


def test_interpolation_starts_and_ends_at_the_cameras_and_passes_through_the_others():
    cameras = SETS["arc"]
    path = interpolated_path(cameras, 400)
    # float32 poses
    for given, made in ((cameras[0], path[0]), (cameras[-1], path[-1])):
        assert torch.allclose(given.viewmat, made.viewmat, atol=1e-4)
    centers = torch.stack([camera.center for camera in path])
    for camera in cameras:
        gap = (centers - camera.center).norm(dim=1)
        assert gap.min() < 0.02  # 400 frames over a length of 5
        turn = path[int(gap.argmin())].viewmat[:3, :3] @ camera.viewmat[:3, :3].T
        assert turn.trace() > 2.999  # 1.8 degrees
    jumps = (centers[1:] - centers[:-1]).norm(dim=1)
    assert jumps.max() < 3 * jumps.median()


def test_no_camera_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        spiral_path([], 3)
