"""Relocation against the published formula and against what it promises: the picture stays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from gaussian_model import DensifyConfig, McmcConfig, McmcDensifier
from gaussian_model.densify.geometry import sample_rows, times_covariance
from gaussian_model.densify.mcmc import divided
from tests.gaussian_model.models import random_gaussians, snapshot, stepped_optimizer

OPACITIES = (0.006, 0.1, 0.5, 0.9, 0.99, 0.9999)
COPIES = (1, 2, 3, 10, 51)


def densifier_of(seed: int = 7, **options: Any) -> McmcDensifier:
    config = DensifyConfig(strategy="mcmc", mcmc=McmcConfig(**options))
    return McmcDensifier(config, torch.Generator().manual_seed(seed))


def published(opacity: float, n: int) -> tuple[float, float]:
    """New opacity and factor on the scale, Eq. 9 as it is printed: a double sum over binomials."""
    new = 1 - (1 - opacity) ** (1 / n)
    total = sum(
        math.comb(i - 1, k) * (-1) ** k / math.sqrt(k + 1) * new ** (k + 1)
        for i in range(1, n + 1)
        for k in range(i)
    )
    return new, opacity / total


@pytest.mark.parametrize("n", COPIES)
def test_division_is_the_published_formula(n):
    opacities = torch.tensor(OPACITIES, dtype=torch.float64)
    scales = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64).repeat(len(OPACITIES), 1)
    new, new_scales = divided(opacities, scales, torch.full((len(OPACITIES),), n))
    for index, opacity in enumerate(OPACITIES):
        expected, factor = published(opacity, n)
        # Both in double; the alternating terms are up to 10^4 times their sum: 10^4 eps, some to spare.
        assert new[index].item() == pytest.approx(expected, rel=1e-10)
        np.testing.assert_allclose(new_scales[index].numpy(), scales[index].numpy() * factor, rtol=1e-10)


@pytest.mark.parametrize("n", COPIES)
@pytest.mark.parametrize("opacity", OPACITIES)
def test_copies_composite_like_the_original(opacity, n):
    new, scale = divided(torch.tensor([opacity]), torch.ones(1, 3), torch.tensor([n]))
    q, s = new.double().item(), scale[0, 0].double().item()
    x = np.linspace(-12, 12, 20001)
    original = opacity * np.exp(-(x**2) / 2)
    copies = 1 - (1 - q * np.exp(-((x / s) ** 2) / 2)) ** n
    # The alpha in the centre is kept exactly; f32 rounding of q counts n times, over 1 - alpha.
    assert copies.max() == pytest.approx(opacity, rel=1e-5)
    # So is the integral along a line; f32 rounding of q and s.
    assert copies.sum() == pytest.approx(original.sum(), rel=2e-5)
    # The profile is not: an opaque Gaussian's copies make a flatter top. The bound is what the
    # formula gives at its worst here (n = 51, opacity 0.9999), measured 0.21.
    assert np.abs(copies - original).max() < (0.25 if opacity > 0.95 else 0.12)


def test_one_copy_is_the_gaussian_itself_and_more_than_51_count_as_51():
    opacities, scales = torch.tensor([0.3, 0.3, 0.3]), torch.full((3, 3), 2.0)
    new, new_scales = divided(opacities, scales, torch.tensor([1, 51, 1000]))
    assert new[0].item() == pytest.approx(0.3, rel=1e-6) and new_scales[0, 0].item() == pytest.approx(2.0)
    assert torch.equal(new[1], new[2]) and torch.equal(new_scales[1], new_scales[2])


def test_a_saturated_opacity_stays_finite():
    new, scales = divided(torch.tensor([1.0, 0.0]), torch.ones(2, 3), torch.tensor([5, 5]))
    assert new.isfinite().all() and scales.isfinite().all() and new[0] < 1.0


def test_dead_gaussians_are_moved_onto_live_ones_and_share_their_opacity():
    gaussians = random_gaussians(300)
    optimizer = stepped_optimizer(gaussians)
    before = snapshot(gaussians, optimizer)
    opacity = before["opacities"].sigmoid()
    dead = opacity <= 0.05
    assert 10 < dead.sum() < 200
    densifier = densifier_of(min_opacity=0.05, grow=0.0, noise_lr=0.0)
    report = densifier.refine(600, gaussians, optimizer)
    assert report is not None and report.relocated == int(dead.sum()) and report.total == 300
    after = snapshot(gaussians, optimizer)

    # Who went where: the draw, made again.
    live = (~dead).nonzero().squeeze(-1)
    drawn = live[sample_rows(opacity[live], int(dead.sum()), torch.Generator().manual_seed(7))]
    copies = torch.bincount(drawn, minlength=300)
    assert copies.max() > 1
    untouched = ~dead & (copies == 0)
    for name in after:
        if not name.endswith("step"):
            assert torch.equal(after[name][untouched], before[name][untouched]), name
    for key in ("means", "quats", "sh0", "shN"):
        assert torch.equal(after[key][dead], before[key][drawn])
        assert torch.equal(after[key][~dead], before[key][~dead])
    changed = dead | (copies > 0)
    assert not any(after[f"{key}.exp_avg"][changed].any() for key in gaussians.params)
    for row, source in zip(dead.nonzero().squeeze(-1).tolist(), drawn.tolist(), strict=True):
        new, factor = published(opacity[source].item(), int(copies[source]) + 1)
        # f32 logit and back: 10 eps; scales: log and exp of values up to e^4.
        assert after["opacities"][row].sigmoid().item() == pytest.approx(max(new, 0.05), rel=1e-5)
        assert after["opacities"][row] == after["opacities"][source]
        ratio = (after["scales"][row] - before["scales"][source]).exp()
        assert ratio.tolist() == pytest.approx([factor] * 3, rel=1e-5)


def test_growth_is_five_per_cent_up_to_the_cap():
    gaussians = random_gaussians(100)
    optimizer = stepped_optimizer(gaussians)
    densifier = densifier_of(cap_max=112, min_opacity=1e-6)
    totals = []
    for iteration in range(600, 1200, 100):
        report = densifier.refine(iteration, gaussians, optimizer)
        assert report is not None
        totals.append(report.total)
    assert totals == [105, 110, 112, 112, 112, 112]
    assert len(optimizer.state[gaussians.params["means"]]["exp_avg"]) == 112


def test_few_gaussians_grow_too_and_more_than_the_cap_stay():
    gaussians = random_gaussians(3)
    optimizer = stepped_optimizer(gaussians)
    densifier_of(min_opacity=1e-6).refine(600, gaussians, optimizer)
    assert len(gaussians) == 4
    densifier_of(min_opacity=1e-6, cap_max=2).refine(600, gaussians, optimizer)
    assert len(gaussians) == 4


@pytest.mark.parametrize("count", [0, 6])
def test_no_live_gaussian_is_no_crash(caplog, count):
    gaussians = random_gaussians(count)
    gaussians.params["opacities"].data.fill_(-20.0)
    densifier_of(cap_max=6).refine(600, gaussians, stepped_optimizer(gaussians))
    assert len(gaussians) == count
    assert ("none to relocate" in caplog.text) == (count > 0)


def test_refinement_keeps_to_its_iterations_but_noise_comes_always():
    gaussians = random_gaussians(20)
    optimizer = stepped_optimizer(gaussians)
    densifier = densifier_of()
    for iteration, due in ((500, False), (600, True), (650, False), (15_000, False), (20_000, False)):
        gaussians.params["opacities"].data[:10] = -6.0  # transparent, so that noise moves them
        before = gaussians.params["means"].detach().clone()
        assert (densifier.refine(iteration, gaussians, optimizer) is not None) == due
        assert not torch.equal(gaussians.params["means"].detach()[:20], before)


def test_noise_is_the_rate_times_the_gate_times_the_covariance_times_a_normal():
    gaussians = random_gaussians(200)
    gaussians.params["opacities"].data[:100] -= 4.0
    optimizer = stepped_optimizer(gaussians)
    before = gaussians.params["means"].detach().double().numpy()
    rate = optimizer.param_groups[0]["lr"]
    densifier_of(noise_lr=1e4).refine(1, gaussians, optimizer)
    moved = gaussians.params["means"].detach().double().numpy() - before
    normal = torch.randn(200, 3, generator=torch.Generator().manual_seed(7)).double().numpy()
    state = {k: v.double().numpy() for k, v in gaussians.state_dict().items()}
    for row in range(200):
        w, x, y, z = state["quats"][row] / np.linalg.norm(state["quats"][row])
        rotation = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
            ]
        )
        covariance = rotation @ np.diag(np.exp(2 * state["scales"][row])) @ rotation.T
        opacity = 1 / (1 + np.exp(-state["opacities"][row]))
        gate = 1 / (1 + np.exp(-100 * ((1 - opacity) - 0.995)))
        expected = covariance @ normal[row] * gate * rate * 1e4
        # moved is a difference of f32 positions up to 4: 2.4e-7 each way; the gate's exponent is up to
        # 100 times an f32 opacity: 1e-5.
        np.testing.assert_allclose(moved[row], expected, rtol=1e-4, atol=5e-7)
    assert np.abs(moved).max() > 1e-3, "the case moves something"


def test_times_covariance_needs_no_unit_quaternion_and_takes_a_zero_one():
    vectors, scales = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 2.0, 3.0]])
    for quat in ([5.0, 0, 0, 0], [0.0, 0, 0, 0]):
        out = times_covariance(torch.tensor([quat]), scales, vectors)
        assert out.tolist() == [[1.0, 8.0, 27.0]]


def test_rows_are_drawn_in_proportion_to_their_weights(generator):
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 6.0, 0.0])
    counts = torch.bincount(sample_rows(weights, 20_000, generator), minlength=6)
    assert counts[[0, 3, 5]].sum() == 0
    # The standard error of each share is at most 0.0035; 5 sigma.
    assert (counts / 20_000 - weights / 10).abs().max() < 0.018
    assert sample_rows(torch.zeros(4), 100, generator).unique().tolist() == [0, 1, 2, 3]


def test_live_gaussians_are_drawn_in_proportion_to_opacity():
    gaussians = random_gaussians(4)
    gaussians.load_state_dict(
        {k: v[torch.tensor([0, 1] + [2] * 4000)].clone() for k, v in gaussians.state_dict().items()}
    )
    gaussians.params["opacities"].data[:] = torch.logit(torch.tensor([0.2, 0.6] + [0.001] * 4000))
    where = gaussians.params["means"].detach()[:2].clone()
    densifier_of(grow=0.0, noise_lr=0.0).refine(600, gaussians, stepped_optimizer(random_gaussians(0)))
    share = (gaussians.params["means"].detach() == where[1]).all(-1).float().mean().item()
    assert share == pytest.approx(0.75, abs=0.035)  # the standard error is 0.007; 5 sigma
