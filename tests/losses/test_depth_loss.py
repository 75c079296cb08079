"""The Pearson depth loss against its formula, and where it has nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depth_priors import DepthPrior
from losses import LossConfig, Objective
from losses.depth import FEWEST, correlation, pearson_loss
from rasterizer import RenderOutput

SHAPE = (24, 32)


def _random(seed, low=0.0, high=1.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return (low + (high - low) * torch.rand(SHAPE, generator=g, dtype=torch.float64)).to(dtype)


def _prior(value, kind="inverse", frame="world", confidence=None):
    return DepthPrior(value, kind, frame, torch.ones(SHAPE) if confidence is None else confidence, "test")


def _weighted_r(x, y, w):
    x, y, w = (np.asarray(v, np.float64).ravel() for v in (x, y, w))
    cov = np.cov(x, y, aweights=w)
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1])


def test_the_correlation_is_numpys_with_weights():
    x, y, w = _random(0, 1, 3), _random(1, 2, 9), _random(2)
    w[:4] = 0.0
    y = y + 2 * x
    # float32 sums of 768 numbers
    assert correlation(x, y, w).item() == pytest.approx(_weighted_r(x, y, w), abs=1e-5)
    assert correlation(x, x, w).item() == pytest.approx(1, abs=1e-6)
    assert correlation(x, -x, w).item() == pytest.approx(-1, abs=1e-6)


def test_what_has_no_weight_may_be_anything():
    x, y, w = _random(0), _random(1), _random(2, 0.1, 1)
    w[:4] = 0.0
    expected = correlation(x, y, w)
    x, y = x.clone(), y.clone()
    x[0], y[1], x[2] = float("nan"), float("inf"), -1e30
    x.requires_grad_(True)
    found = correlation(x, y, w)
    assert torch.equal(found, expected)
    found.backward()
    assert bool(x.grad.isfinite().all()) and bool((x.grad[:4] == 0).all()) and float(x.grad.abs().sum()) > 0


def test_its_gradient_is_right():
    x, y, w = (_random(i, 0.5, 2, torch.float64)[:5, :6] for i in range(3))
    x.requires_grad_(True)
    y.requires_grad_(True)

    def r(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found = correlation(a, b, w)
        assert found is not None
        return found

    assert torch.autograd.gradcheck(r, (x, y), atol=1e-8)


def test_the_loss_takes_the_smaller_branch_for_an_affine_inverse_depth():
    depth, alpha = _random(0, 1, 4), torch.ones(SHAPE)
    midas = 300 / depth + 20 * _random(3)
    expected = min(1 - _weighted_r(depth, -midas, alpha), 1 - _weighted_r(depth, 1 / (midas + 200), alpha))
    assert pearson_loss(depth, alpha, _prior(midas, frame="affine")).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_the_other_branch_is_left_where_one_is_constant():
    depth, alpha = _random(0, 1, 4), torch.ones(SHAPE)
    small = 0.01 / depth + 1e-4 * _random(3)  # 1 / (M + 200) is one number in float32
    found = pearson_loss(depth, alpha, _prior(small, frame="affine"))
    assert found.item() == pytest.approx(1 - _weighted_r(depth, -small, alpha), abs=1e-4)


@pytest.mark.parametrize("frame", ["world", "scale"])
@pytest.mark.parametrize("kind", ["inverse", "depth"])
def test_a_prior_in_units_is_compared_as_depth(kind, frame):
    depth = _random(0, 1, 4)
    true = depth + 0.3 * _random(1)
    alpha, confidence = _random(2), _random(3)
    prior = _prior(1 / true if kind == "inverse" else true, kind, frame, confidence)
    expected = 1 - _weighted_r(depth, true, alpha * confidence)
    assert pearson_loss(depth, alpha, prior).item() == pytest.approx(expected, abs=2e-5)
    perfect = _prior(1 / depth if kind == "inverse" else depth, kind, frame)
    assert pearson_loss(depth, alpha, perfect).item() == pytest.approx(0, abs=1e-6)


def test_it_says_nothing_where_there_is_nothing_to_say():
    depth, ones = _random(0, 1, 4), torch.ones(SHAPE)
    few = torch.zeros(SHAPE)
    few.view(-1)[: FEWEST - 1] = 1.0
    assert pearson_loss(depth, ones, _prior(depth, "depth", confidence=few)) is None
    assert pearson_loss(depth, ones, _prior(torch.full(SHAPE, 2.0))) is None  # a constant prior
    assert pearson_loss(torch.full(SHAPE, 2.0), ones, _prior(depth)) is None  # a flat render
    assert pearson_loss(depth, torch.zeros(SHAPE), _prior(depth)) is None  # nothing rendered
    assert pearson_loss(depth, ones, _prior(torch.zeros(SHAPE))) is None  # nothing known


def _output(depth):
    color = torch.rand(1, *SHAPE, 3, generator=torch.Generator().manual_seed(5))
    return RenderOutput(color=color, depth=depth[None], alpha=torch.ones(1, *SHAPE), info={})


def _terms(objective, prior):
    return objective(
        _output(_random(0, 1, 4)), torch.zeros(*SHAPE, 3), None, prior=prior,
        linear_scales=lambda: torch.ones(1, 3), linear_opacities=lambda: torch.ones(1),
    )  # fmt: skip


def test_the_objective_weighs_it_names_it_and_counts_where_it_was_left_out():
    objective = Objective(LossConfig(depth_weight=0.05))
    prior = _prior(_random(1, 1, 4), "depth")
    plain = pearson_loss(_random(0, 1, 4), torch.ones(SHAPE), prior)
    assert _terms(objective, prior)["depth_pearson"].item() == pytest.approx(0.05 * plain.item())
    assert "depth_pearson" not in _terms(objective, None) and objective.skipped == {}
    assert "depth_pearson" not in _terms(objective, _prior(torch.zeros(SHAPE)))
    assert objective.skipped == {"depth_pearson": 1}
    assert "depth_pearson" not in _terms(Objective(LossConfig()), prior)


def test_its_bits_do_not_depend_on_the_number_of_threads():
    shape = (378, 504)
    g = torch.Generator().manual_seed(0)
    x, y, w = (torch.rand(shape, generator=g) for _ in range(3))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_(True)
        r = correlation(leaf, y, w)
        r.backward()
        found.append((r.detach(), leaf.grad))
    for r, gradient in found[1:]:
        assert torch.equal(r, found[0][0]) and torch.equal(gradient, found[0][1])
