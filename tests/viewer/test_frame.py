"""The viewer's units and poses. Not checked here: what a browser makes of them (test_chromium.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene import Camera, image_points
from scene.geometry import camera_at
from tests.viewer.models import ring
from viewer.frame import RADIUS, Frame
from viewer.stands import spread, standing_at


def test_cameras_stand_at_the_radius_around_the_origin_whatever_the_worlds_unit():
    for radius in (0.003, 3.0, 3000.0):
        cameras = ring(7, radius)
        frame = Frame.around(cameras)
        away = [np.linalg.norm(frame.pose(camera).position) for camera in cameras]
        assert np.allclose(away, RADIUS, rtol=0.05)  # they stand a little above the circle
        assert np.allclose(frame.up, [0, -1, 0], atol=0.05)


def test_world_and_viewer_positions_are_inverse():
    frame = Frame.around(ring(5))
    points = np.random.default_rng(0).normal(size=(20, 3)) * 50
    assert np.allclose(frame.to_world(frame.to_viewer(points)), points, atol=1e-9)


def test_a_pose_brought_back_sees_what_the_camera_saw():
    camera = ring(5)[1]
    frame = Frame.around(ring(5))
    back = frame.camera(frame.pose(camera), camera.width, camera.height)
    points = np.array([[10.0, -5.0, 2.0], [10.5, -5.2, 2.4], [9.0, -4.0, 1.0]])
    for ours, theirs in zip(image_points(back, points), image_points(camera, points), strict=True):
        assert np.allclose(ours, theirs, atol=1e-3)  # float32 matrices of a world of size 10, in pixels


@pytest.mark.parametrize(
    ("cameras", "points"),
    [
        (0, None),
        (0, torch.zeros(0, 3)),
        (0, torch.full((3, 3), float("nan"))),
        (0, torch.ones(4, 3)),
        (0, torch.randn(50, 3, generator=torch.Generator().manual_seed(0))),
        (1, None),
    ],
)
def test_there_is_a_frame_and_a_first_look_whatever_comes_in(cameras, points):
    stands = ring(3)[:cameras]
    frame = Frame.around(stands, points)
    look = frame.first_look(stands[0] if stands else None)
    assert frame.scale > 0 and np.isfinite(frame.centre).all()
    assert np.allclose(np.linalg.norm(frame.up), 1.0)
    towards = -look.position / np.linalg.norm(look.position)
    assert np.allclose(look.axes[:, 2], towards, atol=1e-6)  # it looks at the origin
    assert look.axes[:, 1] @ frame.up < 0  # and is not upside down


def test_cameras_at_one_place_that_look_around_get_the_points_distance():
    angles = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    cameras = [camera_at(_turned(angle), np.zeros(3), ring(1)[0]) for angle in angles]
    angle = np.linspace(0, 2 * np.pi, 400)
    points = torch.from_numpy(np.stack([7 * np.cos(angle), 0 * angle, 7 * np.sin(angle)], 1)).float()
    frame = Frame.around(cameras, points)
    assert 0.3 * RADIUS < 7 * frame.scale < 3 * RADIUS  # of the size of what is seen, not of nothing


def test_whoever_goes_to_a_camera_stands_as_it_and_sees_all_of_its_photograph():
    cameras = ring(6)
    rolled = _rolled(cameras[2], 0.7)
    frame = Frame.around(cameras)
    for camera in (cameras[0], rolled):
        pose = frame.pose(camera)
        for window in (0.6, 1.5, 2.5):
            at, up, fov = standing_at(pose, frame, window)
            right, down, forward = pose.axes.T
            assert np.allclose((at - pose.position) / np.linalg.norm(at - pose.position), forward)
            across = np.cross(forward, up)
            assert np.allclose(across / np.linalg.norm(across), right, atol=1e-9)  # the same roll
            assert np.tan(fov / 2) >= np.tan(pose.fov / 2) - 1e-9
            assert np.tan(fov / 2) * window >= np.tan(pose.fov / 2) * pose.aspect - 1e-9
        assert up @ -down > 0


def test_numbers_are_spread_evenly_with_both_ends():
    assert spread(5, 10) == [0, 1, 2, 3, 4]
    assert spread(100, 3) == [0, 50, 99]
    assert spread(1, 4) == [0]


def _turned(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def _rolled(camera: Camera, angle: float) -> Camera:
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Camera(turn @ camera.viewmat, camera.K, camera.width, camera.height)
