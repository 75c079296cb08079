"""Pages open where the cameras stood, and the right way up."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from exporting import Splats
from exporting.viewpoint import best_camera, camera_viewpoint, guessed_viewpoint, named_camera
from gaussian_model import Gaussians
from scene import Camera, NamedCamera
from scene.geometry import camera_at, look_along
from tests.gaussian_model.models import random_gaussians

TURNS = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
TURN = TURNS * np.linalg.det(TURNS)  # a rotation to no axis in particular
LIKE = Camera(torch.eye(4), torch.tensor([[100.0, 0, 40], [0, 100.0, 30], [0, 0, 1]]), 80, 60)


def ring(count: int = 8, *, turn: np.ndarray = TURN, height: float = 1.0) -> list[Camera]:
    """Upright cameras in a circle of radius 4 around the origin of a turned world whose up is `turn`'s y."""
    cameras = []
    for a in np.linspace(0.0, 2.0 * np.pi, count, endpoint=False):
        center = turn @ np.array([4 * np.cos(a), height, 4 * np.sin(a)])
        cameras.append(camera_at(look_along(-center, turn[:, 1]), center, LIKE))
    return cameras


def splats() -> Splats:
    return Splats.of(random_gaussians(100, degree=0))


def test_a_view_is_a_cameras_and_turns_about_what_all_look_at():
    cameras = ring()
    view = camera_viewpoint(cameras[3], cameras, splats())
    np.testing.assert_allclose(view.position, cameras[3].center.numpy(), atol=1e-6)
    # all axes meet in the origin; matrices are float32
    np.testing.assert_allclose(view.target, 0.0, atol=1e-5)
    np.testing.assert_allclose(view.up, TURN[:, 1], atol=1e-5)
    assert view.field_of_view == pytest.approx(2 * math.atan(30 / 100))
    assert view.distance == pytest.approx(math.hypot(4, 1), abs=1e-5)


def test_a_camera_that_looks_away_still_has_something_ahead():
    cameras = ring()
    away = camera_at(look_along(cameras[0].center.numpy(), TURN[:, 1]), cameras[0].center.numpy(), LIKE)
    view = camera_viewpoint(away, [*cameras, away], splats())
    forward = away.viewmat[2, :3].numpy()
    assert (view.target - view.position) @ forward > 0.1


def test_a_look_straight_down_has_an_up_to_turn_about():
    down = camera_at(look_along(-TURN[:, 1], TURN[:, 0]), 4 * TURN[:, 1], LIKE)
    view = camera_viewpoint(down, [*ring(), down], splats())
    forward = (view.target - view.position) / view.distance
    assert abs(view.up @ forward) < 0.1


@pytest.mark.parametrize("odd", ["aside", "far", "tilted"])
def test_the_odd_camera_out_is_not_where_a_page_opens(odd):
    cameras = ring()
    center, rotation = cameras[0].center.double().numpy(), cameras[0].viewmat[:3, :3].T.double().numpy()
    if odd == "aside":
        cameras[0] = camera_at(look_along(rotation[:, 2] + 0.5 * rotation[:, 0], TURN[:, 1]), center, LIKE)
    elif odd == "far":
        cameras[0] = camera_at(rotation, 3 * center, LIKE)
    else:
        roll = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        cameras[0] = camera_at(rotation @ roll, center, LIKE)
    assert best_camera(cameras, splats()) is not cameras[0]


def test_one_camera_is_enough():
    (camera,) = ring(1)
    assert best_camera([camera], splats()) is camera
    view = camera_viewpoint(camera, [camera], splats())
    assert view.distance > 0 and np.isfinite([*view.target, *view.up]).all()


@pytest.mark.parametrize("name", ["garden/DSC_1.JPG", "DSC_1.JPG", "garden/DSC_1", "DSC_1"])
def test_a_camera_is_found_by_its_image(name):
    cameras = [NamedCamera(f"garden/DSC_{i}.JPG", camera) for i, camera in enumerate(ring(3))]
    assert named_camera(cameras, name) is cameras[1].camera
    assert named_camera(cameras, "DSC_7.JPG") is None and named_camera([], name) is None


def test_without_cameras_the_view_is_from_the_front_with_y_down():
    gaussians = random_gaussians(500, degree=0)
    gaussians.params["means"].data += torch.tensor([10.0, 20.0, 30.0])
    gaussians.params["means"].data[0] = 1e6  # strays count for nothing
    view = guessed_viewpoint(Splats.of(gaussians))
    np.testing.assert_allclose(view.target, [10, 20, 30], atol=0.3)  # a median of 250 of deviation 1
    assert view.position[2] < 30 - 2 and view.position[1] < 20
    np.testing.assert_array_equal(view.up, [0.0, -1.0, 0.0])


def test_one_gaussian_is_seen_from_a_distance_that_its_size_tells():
    state = random_gaussians(1, degree=0).state_dict()
    state["scales"] = torch.log(torch.tensor([[0.1, 0.2, 0.3]]))
    view = guessed_viewpoint(Splats.of(Gaussians.from_tensors(state)))
    assert 0.5 < view.distance < 2.0
