from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian_model import Gaussians, ModelConfig, random_points
from gaussian_model.init import DEPTH_SPREAD, focus_depth, neighbour_distances
from gaussian_model.spherical_harmonics import C0
from scene import Points, Scene
from tests.gaussian_model.models import look_at, view_of

CONFIG = ModelConfig(sh_degree=2)


def points(xyz: list | np.ndarray, rgb: list | None = None) -> Points:
    rows = torch.tensor(np.asarray(xyz), dtype=torch.float32).reshape(-1, 3)
    return Points(xyz=rows, rgb=torch.full_like(rows, 0.25) if rgb is None else torch.tensor(rgb))


def test_values_are_those_of_3dgs():
    xyz = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    gaussians = Gaussians.from_points(points(xyz), CONFIG)
    state = gaussians.state_dict()
    assert torch.equal(state["means"], torch.from_numpy(xyz))
    assert torch.equal(state["quats"], torch.tensor([1.0, 0, 0, 0]).expand(50, 4))
    # One division in f32.
    torch.testing.assert_close(state["sh0"], torch.full((50, 1, 3), -0.25 / C0), rtol=1e-6, atol=0)
    assert state["shN"].shape == (50, 8, 3) and not state["shN"].any()
    # logit and sigmoid, one rounding each.
    torch.testing.assert_close(gaussians.linear_opacities(), torch.full((50,), 0.1), rtol=1e-6, atol=0)
    distance = np.linalg.norm(xyz[:, None].astype(float) - xyz[None], axis=-1)
    expected = np.sort(distance, axis=1)[:, 1:4].mean(axis=1)
    # exp(log(x)): |log| < 4, 4 eps.
    np.testing.assert_allclose(
        gaussians.linear_scales().detach().numpy(), np.repeat(expected[:, None], 3, 1), rtol=1e-6
    )


def test_the_size_factor_multiplies():
    xyz = np.random.default_rng(0).normal(size=(20, 3))
    one = Gaussians.from_points(points(xyz), CONFIG).linear_scales()
    half = Gaussians.from_points(points(xyz), ModelConfig(sh_degree=2, init_scale=0.5)).linear_scales()
    torch.testing.assert_close(half, one * 0.5, rtol=1e-6, atol=0)  # log and exp round once each


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_few_points_get_finite_sizes(count):
    gaussians = Gaussians.from_points(points(np.eye(4, 3)[:count]), CONFIG, extent=5.0)
    assert len(gaussians) == count
    assert gaussians.params["scales"].isfinite().all()
    if count == 1:
        assert gaussians.linear_scales()[0, 0].item() == pytest.approx(0.5)  # a tenth of the extent
    if count == 2:
        assert gaussians.linear_scales()[0, 0].item() == pytest.approx(2**0.5)


def test_coincident_points_do_not_become_infinitely_small():
    xyz = np.random.default_rng(0).normal(size=(30, 3))
    doubled = np.concatenate([xyz, np.repeat(xyz[:1], 10, axis=0)])
    sizes = neighbour_distances(doubled, lone=1.0)
    # Duplicates share the size of their position, which other positions decide.
    np.testing.assert_array_equal(sizes[:30], neighbour_distances(xyz, lone=1.0))
    np.testing.assert_array_equal(sizes[30:], sizes[0])
    np.testing.assert_array_equal(neighbour_distances(np.ones((5, 3)), lone=0.3), np.float32(0.3))


def test_stray_and_near_coincident_points_are_bounded_by_the_median():
    xyz = np.random.default_rng(0).normal(size=(100, 3))
    stray = np.concatenate([xyz, [[1e4, 0, 0]], xyz[:4] * (1 + 1e-7 * np.arange(1, 5))[:, None]])
    sizes = neighbour_distances(stray, lone=1.0)
    assert sizes[100] == pytest.approx(20 * np.median(sizes), rel=1e-6)
    assert sizes.min() >= 0.0099 * np.median(sizes)  # 0.01 of the median before bounding


def test_non_finite_points_are_dropped_with_a_warning_and_bad_colours_mended(caplog):
    cloud = points(
        [[0, 0, 0], [np.nan, 0, 0], [1, 0, 0], [0, np.inf, 0]],
        [[0.5, 2.0, -1.0], [0.0, 0, 0], [float("nan"), 0.5, 0.5], [0.0, 0, 0]],
    )
    with caplog.at_level(logging.WARNING):
        gaussians = Gaussians.from_points(cloud, CONFIG)
    assert len(gaussians) == 2 and "dropped 2 of 4" in caplog.text
    colour = gaussians.params["sh0"][:, 0] * C0 + 0.5
    # (x / C0) * C0 rounds twice.
    torch.testing.assert_close(colour, torch.tensor([[0.5, 1, 0], [0.5, 0.5, 0.5]]), rtol=0, atol=2e-7)


def ring(count: int = 6, radius: float = 4.0) -> list:
    angles = np.arange(count) / count * 2 * np.pi
    positions = radius * np.stack([np.cos(angles), 0.2 + 0 * angles, np.sin(angles)], axis=1)
    return [view_of(look_at(position, np.array([0.0, 0.5, 0.0]))) for position in positions]


def test_random_points_lie_in_a_frustum_at_depths_around_the_focus(generator):
    views = ring()
    depth = focus_depth(views)
    assert depth == pytest.approx(np.hypot(4.0, 0.3), rel=0.2)  # the point that all look at, roughly
    cloud = random_points(views, 601, generator)
    assert cloud.xyz.shape == cloud.rgb.shape == (601, 3)
    share = 601 // 6
    camera = views[0].camera
    local = cloud.xyz[:share] @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
    pixel = local @ camera.K.T
    x, y = pixel[:, 0] / pixel[:, 2], pixel[:, 1] / pixel[:, 2]
    assert (local[:, 2] > depth / DEPTH_SPREAD * 0.999).all()  # rounding of the rotation there and back
    assert (local[:, 2] < depth * DEPTH_SPREAD * 1.001).all()
    assert (x > -0.01).all() and (x < 32.01).all() and (y > -0.01).all() and (y < 24.01).all()
    assert torch.equal(cloud.rgb, torch.full((601, 3), 200 / 255.0))


def test_random_points_shun_masked_out_pixels(generator):
    camera = look_at(np.array([0.0, 0, -3]), np.zeros(3))
    mask = torch.zeros(24, 32, dtype=torch.uint8)
    mask[:, 20:] = 255
    cloud = random_points([view_of(camera, mask=mask)], 200, generator)
    pixel = (cloud.xyz @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]) @ camera.K.T
    assert (pixel[:, 0] / pixel[:, 2] > 19.99).all()


@pytest.mark.parametrize("count", [1, 2])
def test_cameras_without_a_common_focus_still_give_a_depth(count):
    # Parallel axes: no intersection; a lone camera: no scale at all.
    views = [view_of(look_at(np.array([float(i), 0, 0]), np.array([float(i), 0, 1.0]))) for i in range(count)]
    depth = focus_depth(views)
    assert depth == (1.0 if count == 1 else pytest.approx(2.5))  # 5 x 0.5, half the distance of the two


def test_a_scene_without_points_starts_at_random_and_says_so(caplog, generator):
    scene = Scene(train=tuple(ring()), test=(), points=points(np.zeros((0, 3))), extent=4.0, source=Path("x"))
    config = ModelConfig(sh_degree=0, random_points=100)
    with caplog.at_level(logging.INFO):
        gaussians = Gaussians.from_scene(scene, config, generator)
    assert len(gaussians) == 100 and "100 random" in caplog.text
    again = Gaussians.from_scene(scene, config, torch.Generator().manual_seed(0))
    assert torch.equal(gaussians.params["means"], again.params["means"])


def test_a_scene_with_points_leaves_the_generator_alone(generator):
    scene = Scene(train=(), test=(), points=points(np.eye(3)), extent=1.0, source=Path("x"))
    before = generator.get_state()
    assert len(Gaussians.from_scene(scene, CONFIG, generator)) == 3
    assert torch.equal(before, generator.get_state())
