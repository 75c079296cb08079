from __future__ import annotations

import copy
import math

import pytest
import torch

from errors import UserError
from gaussian_model import (
    KEYS,
    GaussianAdam,
    Gaussians,
    OptimConfig,
    active_sh_degree,
    means_learning_rate,
    set_learning_rates,
)
from tests.gaussian_model.models import random_gaussians, snapshot, step_at_random


def torch_twin(gaussians: Gaussians, optimizer: GaussianAdam) -> tuple[Gaussians, torch.optim.Adam]:
    """The same values in torch's own Adam with the same rates."""
    twin = Gaussians({key: value.detach().clone() for key, value in gaussians.params.items()})
    groups = [{"params": [twin.params[group["name"]]], "lr": group["lr"]} for group in optimizer.param_groups]
    return twin, torch.optim.Adam(groups, eps=1e-15)


def test_steps_follow_torchs_adam():
    gaussians = random_gaussians(100)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 2.0)
    twin, reference = torch_twin(gaussians, optimizer)
    g = torch.Generator().manual_seed(3)
    for _ in range(20):
        for key in KEYS:
            gradient = torch.randn(gaussians.params[key].shape, generator=g)
            gaussians.params[key].grad = gradient
            twin.params[key].grad = gradient.clone()
        optimizer.step()
        reference.step()
    ours, theirs = snapshot(gaussians, optimizer), snapshot(twin, reference)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # The same formula in another order of operations: some ulp per step, 20 steps; values cross
        # zero, hence an absolute part of 20 ulp of the largest rate's steps (0.05).
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-7)


def test_zero_gradients_move_nothing_but_decay_the_moments_as_torchs_adam_does():
    gaussians = random_gaussians(10)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    before = snapshot(gaussians, optimizer)
    for parameter in gaussians.params.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = snapshot(gaussians, optimizer)
    for key in KEYS:
        assert torch.equal(after[key], before[key])
        assert not after[f"{key}.exp_avg"].any() and after[f"{key}.step"] == 1

    twin, reference = torch_twin(gaussians, optimizer)
    g = torch.Generator().manual_seed(0)
    for parameter, other in zip(gaussians.params.values(), twin.params.values(), strict=True):
        parameter.grad = torch.randn(parameter.shape, generator=g)
        other.grad = torch.zeros_like(other)
    reference.step()  # the twin too has made one step with zero gradients
    for other, parameter in zip(twin.params.values(), gaussians.params.values(), strict=True):
        assert parameter.grad is not None
        other.grad = parameter.grad.clone()
    for _ in range(2):
        optimizer.step()
        reference.step()
        for parameter, other in zip(gaussians.params.values(), twin.params.values(), strict=True):
            parameter.grad, other.grad = torch.zeros_like(parameter), torch.zeros_like(other)
    for key in KEYS:
        torch.testing.assert_close(gaussians.params[key], twin.params[key], rtol=1e-5, atol=1e-7)  # as above


def test_a_parameter_without_gradient_is_skipped_with_its_step_count():
    gaussians = random_gaussians(6)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    before = gaussians.params["shN"].detach().clone()
    for key in KEYS[:-1]:
        gaussians.params[key].grad = torch.ones_like(gaussians.params[key])
    optimizer.step()
    assert torch.equal(gaussians.params["shN"], before)
    assert not optimizer.state[gaussians.params["shN"]]


def test_gradients_that_are_not_contiguous_are_taken_right():
    a, b = random_gaussians(8), random_gaussians(8)
    gradient = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).T
    a.params["means"].grad, b.params["means"].grad = gradient, gradient.contiguous()
    for gaussians in (a, b):
        GaussianAdam(gaussians, OptimConfig(), 1.0).step()
    assert torch.equal(a.params["means"], b.params["means"])


@pytest.mark.parametrize("count", [0, 1])
def test_no_gaussian_and_no_higher_band_are_no_obstacle(count):
    gaussians = random_gaussians(count, degree=0)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    step_at_random(gaussians, optimizer, torch.Generator().manual_seed(0))
    assert optimizer.state[gaussians.params["shN"]]["step"] == 1


def test_double_parameters_fall_back_to_torch():
    gaussians = Gaussians({k: v.double() for k, v in random_gaussians(4).state_dict().items()})
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    for parameter in gaussians.params.values():
        parameter.grad = torch.ones_like(parameter)
    before = gaussians.params["quats"].detach().clone()
    optimizer.step()
    # The first step of Adam is the rate times the sign.
    torch.testing.assert_close(before - gaussians.params["quats"].detach(), torch.full_like(before, 1e-3))


def test_state_is_saved_and_loaded_as_torchs():
    gaussians = random_gaussians(5)
    optimizer = GaussianAdam(gaussians, OptimConfig(), 1.0)
    g = torch.Generator().manual_seed(0)
    step_at_random(gaussians, optimizer, g)
    twin = Gaussians({k: v.clone() for k, v in gaussians.state_dict().items()})
    other = GaussianAdam(twin, OptimConfig(), 1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torchs = torch.optim.Adam([{"params": [p.detach().clone()]} for p in gaussians.params.values()])
    torchs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    saved = g.get_state()
    step_at_random(gaussians, optimizer, g)
    g.set_state(saved)
    step_at_random(twin, other, g)
    for key in KEYS:
        assert torch.equal(gaussians.params[key], twin.params[key])


def test_the_rate_of_the_positions_falls_log_linearly_and_the_others_stay():
    config = OptimConfig()
    optimizer = GaussianAdam(random_gaussians(2), config, 3.0)
    rates = {}
    for iteration in (0, 500, 1000, 2000):
        set_learning_rates(optimizer, config, 3.0, iteration, 1000)
        rates[iteration] = {group["name"]: group["lr"] for group in optimizer.param_groups}
    # Double arithmetic.
    assert rates[0]["means"] == pytest.approx(3 * 1.6e-4, rel=1e-12)
    assert rates[500]["means"] == pytest.approx(3 * 1.6e-5, rel=1e-12)
    assert rates[1000]["means"] == pytest.approx(3 * 1.6e-6, rel=1e-12)
    assert rates[2000] == rates[1000]
    assert rates[500]["shN"] == 2.5e-3 / 20 and rates[500]["opacities"] == 0.05
    assert math.isfinite(means_learning_rate(config, 1.0, 0, 0))


def test_the_rates_of_all_but_the_positions_fall_by_the_factor_and_that_of_opacities_to_its_own_end():
    gaussians = random_gaussians(2)
    for config, opacities in (
        (OptimConfig(decay=0.25), 0.025),
        (OptimConfig(decay=0.25, opacities_lr_final=0.05), 0.05),
        (OptimConfig(decay=0.25, opacities_lr_final=0.2), 0.1),
    ):
        optimizer = GaussianAdam(gaussians, config, 3.0)
        set_learning_rates(optimizer, config, 3.0, 500, 1000)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates["opacities"] == pytest.approx(opacities, rel=1e-12)  # half way: the geometric mean
        assert rates["scales"] == pytest.approx(5e-3 / 2, rel=1e-12)
        assert rates["means"] == pytest.approx(3 * 1.6e-5, rel=1e-12)


def test_rates_grow_with_the_root_of_the_batch_where_that_is_wished():
    config = OptimConfig(batch_rule="sqrt")
    plain, batch = (GaussianAdam(random_gaussians(2), config, 3.0) for _ in range(2))
    set_learning_rates(plain, OptimConfig(), 3.0, 500, 1000, batch_size=4)
    set_learning_rates(batch, config, 3.0, 500, 1000, batch_size=4)
    for one, four in zip(plain.param_groups, batch.param_groups, strict=True):
        assert four["lr"] == pytest.approx(2 * one["lr"], rel=1e-12)
        assert one["betas"] == (0.9, 0.999)
        # as much is forgotten in one step as in four steps of one view
        assert four["betas"] == pytest.approx((0.9**4, 0.999**4), rel=1e-12)


def test_one_more_sh_degree_per_interval():
    config = OptimConfig(sh_degree_interval=100)
    assert [active_sh_degree(config, i, 3) for i in (1, 99, 100, 200, 300, 10_000)] == [0, 0, 1, 2, 3, 3]
    assert active_sh_degree(OptimConfig(sh_degree_interval=0), 1, 2) == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"means_lr_final": 0.0},
        {"quats_lr": -1.0},
        {"decay": 0.0},
        {"opacities_lr_final": 0.0},
        {"opacities_lr_final": 0.05, "opacities_lr": 0.0},
        {"sh_degree_interval": -1},
    ],
)
def test_rates_that_cannot_be_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        OptimConfig(**bad)
