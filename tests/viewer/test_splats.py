"""The copy of the Gaussians that a browser gets."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from rasterizer.reference import ReferenceStages
from tests.viewer.models import some_gaussians
from viewer.frame import Frame
from viewer.history import History
from viewer.splats import Splats, take_splats

FRAME = Frame(np.array([0.5, -0.25, 1.0]), 2.5, np.array([0.0, -1.0, 0.0]))
PLACE = np.array([0.0, 0.0, -6.0])


def _opaque(n: int, **kwargs: int):
    gaussians = some_gaussians(n, **kwargs)
    gaussians.params["opacities"].data.clamp_(min=-2.0)  # all visible
    return gaussians


def test_places_sizes_and_opacities_are_those_of_the_gaussians_in_viewer_units():
    gaussians = _opaque(40)
    splats = take_splats(gaussians, FRAME, PLACE)
    assert len(splats) == splats.total == 40
    means = gaussians.params["means"].detach().double().numpy()
    assert np.allclose(splats.centers, FRAME.to_viewer(means), atol=1e-5)  # float32
    quats = gaussians.params["quats"].detach().double().numpy()
    axes = Rotation.from_quat(quats[:, [1, 2, 3, 0]]).as_matrix()
    axes = axes * (gaussians.linear_scales().detach().double().numpy() * FRAME.scale)[:, None, :]
    expected = axes @ axes.transpose(0, 2, 1)
    largest = np.abs(expected).max((1, 2), keepdims=True)
    # half precision: 11 bits of each entry
    assert (np.abs(splats.covariances() - expected) <= 2.0**-10 * largest).all()
    opacities = gaussians.linear_opacities().detach().numpy()
    assert np.abs(splats.colours[:, 3] / 255.0 - opacities).max() <= 0.5 / 255 + 1e-6  # 8 bits


def test_colours_are_those_that_the_rasterizer_sees_from_the_place():
    gaussians = _opaque(30, degree=3)
    params = gaussians.params
    expected = ReferenceStages().spherical_harmonics(
        3,
        params["means"],
        torch.from_numpy(PLACE).float()[None],
        (params["sh0"], params["shN"]),
        torch.ones(1, 30, 2, dtype=torch.int32),
    )[0]
    got = take_splats(gaussians, FRAME, PLACE).colours[:, :3] / 255.0
    assert np.abs(got - expected.detach().clamp(0, 1).numpy()).max() <= 0.5 / 255 + 1e-5  # 8 bits
    elsewhere = take_splats(gaussians, FRAME, -PLACE).colours[:, :3] / 255.0
    assert np.abs(got - elsewhere).max() > 0.1  # the case is a real one


def test_a_snapshot_is_a_copy_and_taking_it_leaves_gaussians_and_random_numbers_alone():
    gaussians = _opaque(50)
    before = {key: value.detach().clone() for key, value in gaussians.params.items()}
    random = torch.random.get_rng_state()
    splats = take_splats(gaussians, FRAME, PLACE)
    kept = dataclasses.replace(splats, centers=splats.centers.copy(), colours=splats.colours.copy())
    assert torch.equal(torch.random.get_rng_state(), random)
    for key, value in gaussians.params.items():
        assert torch.equal(value, before[key]) and value.grad is None
    with torch.no_grad():
        for value in gaussians.params.values():
            value.add_(1.0)
    assert np.array_equal(splats.centers, kept.centers) and np.array_equal(splats.colours, kept.colours)


def test_what_is_not_finite_or_cannot_be_seen_is_left_out():
    gaussians = _opaque(10)
    with torch.no_grad():
        gaussians.params["means"][0, 1] = float("nan")
        gaussians.params["scales"][1, 0] = float("inf")
        gaussians.params["quats"][2] = 0.0
        gaussians.params["opacities"][3] = -9.0  # 1e-4
        gaussians.params["sh0"][4, 0, 0] = float("nan")
        gaussians.params["opacities"][5] = float("nan")
        gaussians.params["shN"][6, 0, 0] = float("nan")  # stays, grey in that channel
    splats = take_splats(gaussians, FRAME, PLACE)
    assert (len(splats), splats.total) == (4, 10)
    assert np.isfinite(splats.centers).all() and np.isfinite(splats.triangles).all()


def test_enormous_gaussians_stay_finite_in_half_precision():
    gaussians = _opaque(3)
    gaussians.params["scales"].data.fill_(20.0)
    assert np.isfinite(take_splats(gaussians, FRAME, PLACE).triangles).all()


def test_of_too_many_the_large_and_opaque_ones_are_shown_in_their_order():
    gaussians = _opaque(100)
    with torch.no_grad():
        gaussians.params["scales"].fill_(-3.0)
        gaussians.params["opacities"].fill_(0.0)
        gaussians.params["scales"][[90, 7, 55]] = 0.0
    splats = take_splats(gaussians, FRAME, PLACE, limit=3)
    means = gaussians.params["means"].detach().double().numpy()[[7, 55, 90]]
    assert splats.total == 100
    assert np.allclose(splats.centers, FRAME.to_viewer(means), atol=1e-5)


def test_no_gaussians_give_no_splats():
    splats = take_splats(some_gaussians(0), FRAME, PLACE)
    assert (len(splats), splats.total) == (0, 0)
    assert splats.covariances().shape == (0, 3, 3)


def _step(n: int) -> Splats:
    return Splats(np.zeros((n, 3), np.float32), np.zeros((n, 6), np.float16), np.zeros((n, 4), np.uint8), n)


def test_the_history_keeps_both_ends_within_its_room():
    history = History(room=10 * _step(5).nbytes)
    for iteration in range(0, 1000, 10):
        history.add(iteration, _step(5))
    assert history.span == (0, 990)
    assert 5 <= len(history) <= 10
    found = history.nearest(500)
    assert found is not None and abs(found[0] - 500) <= 150  # about evenly spread


def test_the_history_begins_anew_with_another_model_and_replaces_a_step_that_comes_again():
    history = History()
    history.add(10, _step(1))
    history.add(20, _step(2))
    history.add(20, _step(3))
    found = history.nearest(999)
    assert found is not None and (found[0], len(found[1])) == (20, 3)
    history.add(1, _step(4))
    assert history.span == (1, 1) and len(history) == 1
    assert History().nearest(5) is None
