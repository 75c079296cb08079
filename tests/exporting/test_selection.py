"""What is kept, and what of its colours."""

from __future__ import annotations

import pytest
import torch

from errors import UserError
from exporting import select
from gaussian_model import KEYS, Gaussians
from tests.gaussian_model.models import random_gaussians


def kept_rows(before: Gaussians, after: Gaussians) -> list[int]:
    """The indices of `after`'s rows in `before`, found by position."""
    return [int((before.params["means"] == row).all(dim=1).nonzero()[0]) for row in after.params["means"]]


def test_nothing_asked_keeps_everything_bit_for_bit():
    gaussians = random_gaussians(50, degree=3)
    kept = select(gaussians)
    for key in KEYS:
        assert torch.equal(kept.params[key], gaussians.params[key]), key


@pytest.mark.parametrize("degree", [0, 2])
def test_what_is_not_finite_or_beyond_all_measure_is_left_out(degree):
    gaussians = random_gaussians(6, degree)
    gaussians.params["means"].data[1, 2] = float("nan")
    gaussians.params["opacities"].data[2] = float("inf")
    gaussians.params["means"].data[4, 0] = 1e19
    assert kept_rows(gaussians, select(gaussians)) == [0, 3, 5]


def test_the_faint_are_left_out():
    gaussians = random_gaussians(40)
    opacities = gaussians.linear_opacities()
    expected = (opacities >= 0.3).nonzero()[:, 0].tolist()
    assert 0 < len(expected) < 40
    assert kept_rows(gaussians, select(gaussians, min_opacity=0.3)) == expected


def test_of_many_those_with_the_most_opaque_area_stay_in_their_order():
    gaussians = random_gaussians(40)
    scales = gaussians.linear_scales().sort(dim=1).values
    importance = gaussians.linear_opacities() * scales[:, 1] * scales[:, 2]
    expected = sorted(importance.argsort(descending=True)[:15].tolist())
    assert kept_rows(gaussians, select(gaussians, max_gaussians=15)) == expected
    assert len(select(gaussians, max_gaussians=40)) == len(select(gaussians, max_gaussians=100)) == 40


@pytest.mark.parametrize(("degree", "bases"), [(0, 0), (1, 3), (2, 8), (4, 8)])
def test_colours_are_cut_to_a_degree_and_never_extended(degree, bases):
    gaussians = random_gaussians(5, degree=2)
    kept = select(gaussians, sh_degree=degree)
    assert torch.equal(kept.params["shN"], gaussians.params["shN"][:, :bases])


def test_where_nothing_is_left_the_reason_is_said():
    with pytest.raises(UserError, match="expected Gaussians to export, got none"):
        select(random_gaussians(0))
    gaussians = random_gaussians(5)
    gaussians.params["opacities"].data[:] = 0.0
    with pytest.raises(UserError, match=r"--min_opacity 0\.9: .*0\.500.*lower it"):
        select(gaussians, min_opacity=0.9)
    gaussians.params["quats"].data[:] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        select(gaussians)
