"""What few views add to density control: unpooling, and empty space before the cameras."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from errors import UserError
from gaussian_model import DefaultDensifier, DensifyConfig, Gaussians, build_densifier
from gaussian_model.densify.front import EmptySpace
from gaussian_model.densify.unpool import unpool
from scene import Camera
from tests.gaussian_model.models import meta, random_gaussians, stepped_optimizer

EXTENT = 2.0
QUIET = DensifyConfig(start=0, stop=1000, every=10, grad_threshold=1e9, prune_opacity=1e-6, reset_every=0)
"""Grows nothing by gradient and prunes nothing."""


def plain_unpool(means: np.ndarray, distance: float) -> list[tuple[int, int]]:
    """(source, neighbour) of each new Gaussian, highest scores first, row by row."""
    apart = np.linalg.norm(means[:, None] - means[None], axis=-1)
    found, taken = [], set()
    nearest = {
        i: sorted((apart[i, j], j) for j in range(len(means)) if j != i)[:3] for i in range(len(means))
    }
    score = {i: np.mean([length for length, _ in ties]) for i, ties in nearest.items()}
    for i in sorted(score, key=lambda i: -score[i]):
        if score[i] <= distance:
            continue
        for _, j in nearest[i]:
            if frozenset((i, j)) not in taken:
                taken.add(frozenset((i, j)))
                found.append((i, j))
    return found


def test_unpooling_adds_the_middle_of_each_tie_of_what_stands_apart() -> None:
    means = torch.randn(60, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = plain_unpool(means.numpy(), 0.6)
    assert 20 < len(expected) < 150, "the case must have both kinds"
    found = unpool(means, 0.6, None)
    assert found.like.tolist() == [j for _, j in expected]
    middles = np.array([0.5 * (means[i] + means[j]).numpy() for i, j in expected])
    np.testing.assert_array_equal(found.means.numpy(), middles)
    few = unpool(means, 0.6, 7)  # the highest scores first
    assert few.like.tolist() == [j for _, j in expected[:7]]


def test_the_distance_is_euclidean_and_not_squared() -> None:
    square = torch.tensor([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0.1, 0.1, 0]])
    # two sides and a diagonal: (0.1 + 0.1 + 0.1414) / 3 = 0.1138; its square is 0.013
    assert len(unpool(square, 0.113, None).like) == 6  # four sides, two diagonals, each once
    assert len(unpool(square, 0.115, None).like) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_fewer_than_four_gaussians_have_fewer_ties(count: int) -> None:
    means = torch.arange(3.0 * count).reshape(count, 3) * torch.tensor([1.0, 2.0, 5.0])
    assert len(unpool(means, 0.5, None).like) == {0: 0, 1: 0, 2: 1, 3: 3}[count]


def test_gaussians_at_one_place_and_those_nowhere_are_no_trouble() -> None:
    means = torch.zeros(8, 3)
    means[6] = torch.nan
    means[7] = torch.tensor([1.0, 0, 0])
    found = unpool(means, 0.5, None)
    assert found.means.tolist() == [[0.5, 0.0, 0.0]] * 3 and len(set(found.like.tolist())) == 3
    assert unpool(torch.full((5, 3), torch.inf), 0.5, None).means.shape == (0, 3)


def test_a_refinement_gives_new_ones_the_neighbours_shape_opacity_and_colour(generator) -> None:
    gaussians = random_gaussians(40)
    densifier = DefaultDensifier(replace(QUIET, unpool=0.3), EXTENT, generator)
    optimizer = stepped_optimizer(gaussians)
    before = {key: value.detach().clone() for key, value in gaussians.params.items()}
    densifier.collect(meta(40, 1, generator))
    expected = unpool(gaussians.params["means"].detach(), 0.3 * EXTENT, None)
    report = densifier.refine(10, gaussians, optimizer)
    assert report is not None and report.added == len(expected.like) > 5
    assert report.total == len(gaussians) == 40 + report.added
    for key, value in gaussians.params.items():
        assert torch.equal(value[:40], before[key]), key
        new = expected.means if key == "means" else before[key][expected.like]
        assert torch.equal(value[40:], new), key
        assert not optimizer.state[value]["exp_avg"][40:].any(), "the new have no momentum"


def test_unpooling_stops_when_it_should_and_keeps_to_the_limit(generator) -> None:
    def added(**options: Any) -> int:
        gaussians = random_gaussians(40)
        densifier = DefaultDensifier(replace(QUIET, unpool=0.3, **options), EXTENT, generator)
        report = densifier.refine(20, gaussians, stepped_optimizer(gaussians))
        assert report is not None
        return report.added

    free = added()
    assert free > 10
    assert added(unpool_until=20) == free
    assert added(unpool_until=19) == 0
    assert added(max_gaussians=45) == 5
    assert added(max_gaussians=30) == 0


def _camera(shift: float = 0.0) -> Camera:
    viewmat = torch.eye(4)
    viewmat[0, 3] = -shift
    return Camera(viewmat, torch.tensor([[50.0, 0, 20], [0, 50.0, 15], [0, 0, 1]]), 40, 30)


def test_empty_space_is_what_lies_before_the_nearest_points_of_a_camera() -> None:
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 0.2 + torch.tensor([0, 0, 4.0])
    points[0] = torch.tensor([0.0, 0.0, 0.1])  # one wrong point does not count
    empty = EmptySpace([_camera(), _camera(100.0)], points, 0.5)
    assert len(empty.cameras) == 1, "the other one sees nothing"
    means = torch.tensor(
        [
            [0.0, 0.0, 1.9],  # before half of 4.0
            [0.0, 0.0, 2.1],
            [0.0, 0.0, -1.0],  # behind the camera
            [1.9, 0.0, 1.9],  # outside the picture: 1 * 50 + 20 > 40
            [torch.nan, 0.0, 1.0],
        ]
    )
    assert empty.contains(means).tolist() == [True, False, False, False, False]


def test_gaussians_in_empty_space_are_pruned(generator) -> None:
    gaussians = random_gaussians(60)
    with torch.no_grad():
        gaussians.params["means"].mul_(0.1).add_(torch.tensor([0.0, 0.0, 4.0]))
        gaussians.params["means"][::3, 2] = 1.0
    points = torch.tensor([0.0, 0.0, 4.0]).repeat(50, 1)
    config = replace(QUIET, prune_near=0.5)
    densifier = build_densifier(config, EXTENT, generator, cameras=[_camera()], points=points)
    report = densifier.refine(10, gaussians, stepped_optimizer(gaussians))
    assert report is not None and report.pruned == 20
    assert float(gaussians.params["means"].detach()[:, 2].min()) > 2.0


def test_without_points_nothing_is_pruned_and_that_is_said(caplog, generator) -> None:
    with caplog.at_level(logging.WARNING):
        densifier = build_densifier(replace(QUIET, prune_near=0.5), EXTENT, generator, cameras=[_camera()])
    assert "prune_near" in caplog.text
    gaussians: Gaussians = random_gaussians(10)
    report = densifier.refine(10, gaussians, stepped_optimizer(gaussians))
    assert report is not None and report.pruned == 0


@pytest.mark.parametrize(
    "options",
    [
        {"unpool": -1.0},
        {"unpool": float("nan")},
        {"unpool_until": -1},
        {"prune_near": 1.0},
        {"prune_near": -0.1},
    ],
)
def test_options_without_meaning_are_refused(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        DensifyConfig(**options)
