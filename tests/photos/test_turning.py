"""A camera that turns is told from one that moves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from photos.advice import TURNED
from photos.turning import Matched, unexplained_by_turns


def _pairs(step: float, focal: float = 1.1, wrong: float = 0.0) -> list[Matched]:
    """Three pairs of 200 points at depths of 3 to 9; the camera turns by 6 degrees and moves by `step`."""
    pairs = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        points = np.concatenate([rng.uniform(-0.5, 0.5, (200, 2)) / focal, np.ones((200, 1))], axis=1)
        points *= rng.uniform(3, 9, (200, 1))
        turn = Rotation.from_euler("yx", [6, 2 * seed], degrees=True).as_matrix()
        moved = (points - np.array([step, 0, 0])) @ turn.T
        views = [focal * x[:, :2] / x[:, 2:] for x in (points, moved)]
        views[1] += rng.normal(0, 3e-4, views[1].shape)  # matches are good to a third of a pixel in 1000
        views[1][rng.random(200) < wrong] += 0.1
        pairs.append(Matched(views[0], views[1]))
    return pairs


@pytest.mark.parametrize("wrong", [0.0, 0.1])
@pytest.mark.parametrize("focal", [0.7, 1.1, 2.2])
def test_a_turn_leaves_nothing_but_noise(focal, wrong):
    assert unexplained_by_turns(_pairs(0.0, focal, wrong)) < TURNED


def test_a_step_of_a_tenth_of_the_distance_cannot_be_explained():
    assert unexplained_by_turns(_pairs(0.5)) > 3 * TURNED
